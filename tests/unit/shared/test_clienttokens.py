"""Client tokens: only their hashes are kept, and nothing but the whole token is let in."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stageline.clienttokens import (
    ClientToken,
    ClientTokens,
    Limits,
    create_token,
    hashed,
    read_tokens,
    revoke_tokens,
)
from stageline.errors import AuthenticationError, ConfigError

NOW = 1_800_000_000.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "clients/tokens.json"


def test_what_is_kept_does_not_hold_the_token(path: Path) -> None:
    made, text = create_token(path, "camera", Limits(("infer", "admin"), 2.5, 4), now=NOW, expires=NOW + 60)
    secret = text.rsplit("_", 1)[1]
    assert secret not in path.read_text() and secret not in repr(made)
    assert read_tokens(path) == (made,)
    assert (made.scopes, made.rate, made.in_flight, made.expires) == (("admin", "infer"), 2.5, 4, NOW + 60)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["tokens.json"]


def test_a_token_is_recognised_until_it_expires(path: Path) -> None:
    made, text = create_token(path, "camera", Limits(), now=NOW, expires=NOW + 60)
    known = ClientTokens(read_tokens(path))
    assert known.check(text, NOW + 59.9) == made
    with pytest.raises(AuthenticationError, match="the token expired 5 s ago: ask the administrator"):
        known.check(text, NOW + 65)


def test_no_token_and_wrong_ones_are_told_apart_but_not_repeated(path: Path) -> None:
    _, text = create_token(path, "", Limits(), now=NOW)
    other = create_token(path.with_name("others.json"), "", Limits(), now=NOW)[1]
    known = ClientTokens(read_tokens(path))
    with pytest.raises(AuthenticationError, match="asks for a token"):
        known.check("", NOW)
    swapped = "_".join((*text.split("_")[:2], other.rsplit("_", 1)[1]))
    for wrong in (other, swapped, text[:-1], text + "A", text[4:], text.upper(), "slc__", "slc_é_é", "x" * 4096):
        with pytest.raises(AuthenticationError, match="not one of this gateway's") as caught:
            known.check(wrong, NOW)
        assert wrong not in str(caught.value)


@given(st.text(max_size=200))
def test_no_text_is_let_in_by_chance(text: str) -> None:
    known = ClientTokens([ClientToken("0" * 12, hashed(b""), ("infer",))])
    with pytest.raises(AuthenticationError):
        known.check(text, NOW)


def test_tokens_are_revoked_by_id_and_by_name(path: Path) -> None:
    first, second, third = (create_token(path, name, Limits(), now=NOW)[0] for name in ("a", "b", "b"))
    assert revoke_tokens(path, "b") == [second, third]
    assert read_tokens(path) == (first,)
    with pytest.raises(ConfigError, match=rf"no client token 'b' in .*; there are: {first.id} \(a\)"):
        revoke_tokens(path, "b")
    assert revoke_tokens(path, first.id) == [first]
    assert read_tokens(path) == ()


def test_several_who_make_tokens_at_once_lose_none(path: Path) -> None:
    threads = [threading.Thread(target=create_token, args=(path, "n", Limits()), kwargs={"now": NOW}) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_tokens(path)) == 8


def _changed(path: Path, **fields: object) -> str:
    content = json.loads(path.read_text())
    content["tokens"][0].update(fields)
    return json.dumps(content)


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"hash": "00"}, "hash"),
        ({"id": "nobody"}, "id"),
        ({"scopes": ["root"]}, "root"),
        ({"rate": -1}, "rate"),
        ({"in_flight": 1.5}, "in_flight"),
        ({"expires": "tomorrow"}, "expires"),
        ({"admin": True}, "admin"),
    ],
)
def test_a_damaged_file_is_refused_by_field(path: Path, fields: dict[str, object], wanted: str) -> None:
    create_token(path, "a", Limits(), now=NOW)
    path.write_text(_changed(path, **fields))
    with pytest.raises(ConfigError, match=f"is no file of client tokens.*{wanted}"):
        read_tokens(path)


def test_a_file_that_cannot_be_believed_is_refused(path: Path) -> None:
    with pytest.raises(ConfigError, match="make it with `stageline tokens create --file "):
        read_tokens(path)
    made, _ = create_token(path, "a", Limits(), now=NOW)
    twice = msgspec.json.encode({"version": 1, "tokens": [made, made]})
    path.write_bytes(twice)
    with pytest.raises(ConfigError, match="twice"):
        read_tokens(path)
    path.chmod(0o620)
    with pytest.raises(ConfigError, match="may be written by others"):
        read_tokens(path)


@pytest.mark.parametrize("data", [b"", b"{", b'"\xff"', b"[" * 100_000, b'{"version": 2, "tokens": []}'])
def test_what_is_no_such_file_is_refused(path: Path, data: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(data)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="is no file of client tokens"):
        read_tokens(path)


def test_what_could_not_be_read_again_is_not_written(path: Path) -> None:
    with pytest.raises(ConfigError, match="rate"):
        create_token(path, "a", Limits(rate=float("inf")), now=NOW)
    with pytest.raises(ConfigError, match="name"):
        create_token(path, "a" * 101, Limits(), now=NOW)
    assert not path.exists()
