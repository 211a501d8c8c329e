"""The file of tokens as a gateway sees it: changes count at once, damage does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stageline import logs
from stageline.clienttokens import ClientToken, Limits, create_token, revoke_tokens
from stageline.errors import AuthenticationError, ConfigError, ForbiddenError, RejectedError
from stageline_gateway.access import Access


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


def make(path: Path, name: str = "a", limits: Limits = Limits(), expires: float = 0.0) -> tuple[ClientToken, str]:  # noqa: B008
    return create_token(path, name, limits, now=1000.0, expires=expires)


def test_without_a_file_it_does_not_start(path: Path) -> None:
    with pytest.raises(ConfigError, match="stageline tokens create"):
        Access(path, logs.get())


def test_connections_of_a_token_share_what_it_allows(path: Path) -> None:
    _, text = make(path)
    access = Access(path, logs.get(), Clock())
    assert access.admit(text) is access.admit(text)
    assert access.admit(text) is not access.admit(make_and_look(access, path))


def make_and_look(access: Access, path: Path) -> str:
    _, text = make(path, "b")
    with pytest.raises(AuthenticationError):
        access.admit(text)
    assert not access.look(), "nobody lost anything"
    return text


def test_a_revoked_token_is_lost_at_the_next_look(path: Path) -> None:
    _, text = make(path)
    access = Access(path, logs.get(), Clock())
    allowance = access.admit(text)
    assert not access.look() and not allowance.lost
    revoke_tokens(path, "a")
    assert access.look() and allowance.lost.startswith("the token was revoked")
    assert not access.look()
    with pytest.raises(AuthenticationError):
        access.admit(text)


def test_an_expired_token_is_lost_without_a_change(path: Path) -> None:
    clock = Clock()
    _, text = make(path, expires=1010.0)
    access = Access(path, logs.get(), clock)
    allowance = access.admit(text)
    clock.now = 1009.9
    assert not access.look()
    clock.now = 1010.0
    assert access.look() and allowance.lost.startswith("the token has expired")


def test_new_limits_and_scopes_count_for_connections_that_stand(path: Path) -> None:
    _, text = make(path)
    access = Access(path, logs.get(), Clock())
    allowance = access.admit(text)
    allowance.begin(0.0)
    content = json.loads(path.read_text())
    content["tokens"][0] |= {"in_flight": 1, "scopes": ["admin"]}
    path.write_text(json.dumps(content))
    assert not access.look()
    with pytest.raises(RejectedError):
        allowance.begin(0.0)
    with pytest.raises(ForbiddenError):
        allowance.need("infer")


def test_another_secret_under_the_same_id_is_another_token(path: Path) -> None:
    _, text = make(path)
    access = Access(path, logs.get(), Clock())
    allowance = access.admit(text)
    content = json.loads(path.read_text())
    content["tokens"][0]["hash"] = "0" * 64
    path.write_text(json.dumps(content))
    assert access.look() and allowance.lost


def test_a_damaged_file_leaves_the_tokens_as_they_were(path: Path) -> None:
    _, text = make(path)
    access = Access(path, logs.get(), Clock())
    path.write_text("{")
    assert not access.look()
    access.admit(text)


def test_a_file_that_is_gone_lets_nobody_in(path: Path) -> None:
    _, text = make(path)
    access = Access(path, logs.get(), Clock())
    allowance = access.admit(text)
    path.unlink()
    assert access.look() and allowance.lost
    with pytest.raises(AuthenticationError):
        access.admit(text)


def test_http_is_for_administrators_within_their_rate(path: Path) -> None:
    access_of = {name: make(path, name, Limits((name,), 1.0))[1] for name in ("infer", "admin")}
    access = Access(path, logs.get(), Clock())
    access.allow(access_of["admin"])
    with pytest.raises(RejectedError):
        access.allow(access_of["admin"])
    with pytest.raises(ForbiddenError, match="scope admin"):
        access.allow(access_of["infer"])
    with pytest.raises(AuthenticationError):
        access.allow("x")
