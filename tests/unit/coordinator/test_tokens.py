"""Who knocks with a token: let in, or told exactly why not."""

from __future__ import annotations

import msgspec
import pytest

from stageline.curve import KeyPair
from stageline.errors import ConfigError
from stageline.jointoken import JoinToken, hashed, read_token
from stageline.messages import Join, Refused
from stageline.wire import PROTOCOL_MAX, PROTOCOL_MIN
from stageline_coordinator.tokens import ANY_NUMBER, CLOCK_S, Key, Token, judge, made_beforehand

NOW = 1_000_000.0
SECRET = b"s" * 20
TOKEN = Token("id", hashed(SECRET), 1, NOW + 60)
JOIN = Join(name="box", token="id", secret=SECRET, time_s=NOW, protocol_min=PROTOCOL_MIN, protocol_max=PROTOCOL_MAX)
KEY = "ab" * 32


def why(join: Join = JOIN, token: Token | None = TOKEN, owner: Key | None = None, now: float = NOW) -> str:
    answer = judge(join, KEY, token, owner, now)
    assert isinstance(answer, Refused), answer
    return f"{answer.code}: {answer.message}"


def test_a_token_is_used_up_by_one_who_joins() -> None:
    used = judge(JOIN, KEY, TOKEN, None, NOW)
    assert isinstance(used, Token) and used.uses == 0
    assert "forbidden: the join token is used up" in why(token=used)


def test_who_lost_the_answer_may_ask_again_even_late() -> None:
    used = Token("id", hashed(SECRET), 0, NOW - 1)
    assert judge(JOIN, KEY, used, Key("box", KEY), NOW) == used


def test_a_token_for_any_number_stays_as_it_is() -> None:
    many = Token("id", hashed(SECRET), ANY_NUMBER, NOW + 60)
    assert judge(JOIN, KEY, many, None, NOW) == many


def test_each_reason_is_said() -> None:
    assert "forbidden: the join token is not one of this coordinator's" in why(token=None)
    assert "forbidden: the join token is not one of this coordinator's" in why(
        msgspec.structs.replace(JOIN, secret=b"t" * 20)
    )
    assert "forbidden: the join token expired 40 s ago" in why(now=NOW + 100)
    assert "forbidden: the name 'box' belongs to another key" in why(owner=Key("box", "cd" * 32))
    assert "forbidden: this key was revoked" in why(owner=Key("box", KEY, revoked=True))
    late = msgspec.structs.replace(JOIN, time_s=NOW - CLOCK_S - 10)
    assert "clock: its clock is 310 s behind the coordinator's" in why(late)
    assert "clock: its clock is nan s" in why(msgspec.structs.replace(JOIN, time_s=float("nan")))
    newer = msgspec.structs.replace(JOIN, protocol_min=7, protocol_max=9, version="9.0")
    assert "protocol: it speaks protocol 7-9 (version 9.0)" in why(newer)
    assert "config: the name" in why(msgspec.structs.replace(JOIN, name="../x"))


def test_a_revoked_name_may_be_taken_by_a_new_key() -> None:
    assert isinstance(judge(JOIN, KEY, TOKEN, Key("box", "cd" * 32, revoked=True), NOW), Token)


def test_a_token_made_beforehand_needs_nothing_but_the_key() -> None:
    pair = KeyPair.fresh()
    made = JoinToken.beforehand(pair, 7703, expires=int(NOW) + 60)
    assert read_token(made.text) == made and made.coordinator == pair.public
    join = msgspec.structs.replace(JOIN, token=made.id, secret=made.secret)
    found = made_beforehand(made.id, pair.secret)
    assert found is not None and judge(join, KEY, found, None, NOW) == found
    assert "the join token expired 40 s ago" in why(join, found, now=NOW + 100)
    longer = msgspec.structs.replace(join, token=f"kfffffff-{made.id[-12:]}")
    for other, key in ((longer, pair.secret), (join, KeyPair.fresh().secret)):
        assert "not one of this coordinator's" in why(other, made_beforehand(other.token, key))


def test_names_of_other_tokens_are_looked_up() -> None:
    for name in (JoinToken.fresh(b"k" * 32, 7703).id, "k-" + "0" * 12, "k1-" + "0" * 11, "K1-" + "0" * 12, "k" * 40):
        assert made_beforehand(name, b"s" * 32) is None


def test_a_token_is_text_that_must_be_whole() -> None:
    token = JoinToken.fresh(b"k" * 32, 7703)
    assert read_token(f" {token.text}\n") == token
    assert token.secret.hex() not in repr(token) and repr(token.secret) not in repr(token)
    for text in (
        "",
        "stageline-",
        token.text[:-1],
        token.text[:-4] + "AAAA",
        token.text.removeprefix("stageline-"),
        "é",
    ):
        with pytest.raises(ConfigError, match="not whole") as caught:
            read_token(text)
        assert not text or text not in str(caught.value)
