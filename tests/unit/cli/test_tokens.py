"""`stageline tokens`: the token is printed once, its limits are listed, revoking takes it out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stageline.cli import run
from stageline.cli.options import EXIT_USAGE
from stageline.clienttokens import ClientTokens, read_tokens
from stageline.errors import AuthenticationError


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STAGELINE_TOKENS_FILE", str(tmp_path / "tokens.json"))
    return tmp_path / "tokens.json"


def test_a_token_is_printed_once_and_its_limits_are_listed(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limits = ["--rate", "2.5", "--in-flight", "3", "--expires", "1h", "--scope", "infer", "--scope", "admin"]
    assert run(["tokens", "create", "--name", "camera", *limits]) == 0
    told = capsys.readouterr()
    (made,) = read_tokens(path)
    assert ClientTokens([made]).check(told.out.strip(), made.created) == made
    assert f"made {made.id}" in told.err and told.out.strip() not in told.err
    assert made.expires - made.created == pytest.approx(3600, abs=2)
    assert run(["tokens", "list", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["id"], row["name"], row["scopes"]) == (made.id, "camera", ["admin", "infer"])
    assert (row["rate"], row["in_flight"]) == (2.5, 3) and "hash" not in row
    assert run(["tokens", "list"]) == 0
    assert f"{made.id}\tcamera\tadmin, infer\t2.5\t3\t" in capsys.readouterr().out


def test_without_limits_it_says_so(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["tokens", "create", "--json"]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert ClientTokens(read_tokens(path)).check(told["token"], 0.0).scopes == ("infer",)
    assert run(["tokens", "list"]) == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert line.split("\t")[2:5] == ["infer", "any", "any"] and line.endswith("\tnever")


def test_it_may_go_to_a_file_which_is_kept(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to = tmp_path / "client/token"
    assert run(["tokens", "create", "--to", str(to)]) == 0
    text = to.read_text().strip()
    assert text not in capsys.readouterr().out
    assert to.stat().st_mode & 0o777 == 0o600
    assert run(["tokens", "create", "--to", str(to)]) == 0
    assert "is there: nothing made" in capsys.readouterr().out
    (made,) = read_tokens(path)
    assert ClientTokens([made]).check(text, 0.0) == made


def test_what_could_not_be_written_is_taken_back(path: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert run(["tokens", "create", "--to", str(tmp_path / "file/token")]) == EXIT_USAGE
    assert read_tokens(path) == ()


def test_a_name_is_given_once(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["tokens", "create", "--name", "camera"]) == 0
    capsys.readouterr()
    assert run(["tokens", "create", "--name", "camera"]) == EXIT_USAGE
    told = capsys.readouterr()
    assert told.out == "" and len(read_tokens(path)) == 1
    assert "has a token called camera already: revoke it first (`stageline tokens revoke`), or choose" in told.err
    assert run(["tokens", "revoke", "camera"]) == run(["tokens", "create", "--name", "camera"]) == 0
    assert [run(["tokens", "create"]) for _ in range(2)] == [0, 0]


def test_revoking_takes_it_out(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["tokens", "create", "--name", "camera"]) == 0
    text = capsys.readouterr().out.strip()
    (made,) = read_tokens(path)
    assert run(["tokens", "revoke", "camera"]) == 0
    assert capsys.readouterr().out == f"revoked {made.id}\n"
    with pytest.raises(AuthenticationError):
        ClientTokens(read_tokens(path)).check(text, 0.0)
    assert run(["tokens", "revoke", "camera"]) == EXIT_USAGE
    assert "no client token 'camera'" in capsys.readouterr().err


def test_the_file_must_be_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("STAGELINE_TOKENS_FILE", raising=False)
    assert run(["tokens", "list"]) == EXIT_USAGE
    assert "Name the gateway's tokens_file with --file" in capsys.readouterr().err
