"""What a client takes from its options and the environment, and that a token passes no network in the clear."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from stageline.client.security import Security
from stageline.errors import ConfigError
from stageline.tls import Tls

HERE, THERE = "127.0.0.1:7710", "10.0.0.1:7710"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("from-file\n")
    path.chmod(0o600)
    return path


def test_the_option_beats_the_environment_and_a_token_there_a_file(file: Path) -> None:
    environ = {"STAGELINE_TOKEN": "from-environment", "STAGELINE_TOKEN_FILE": str(file)}
    assert Security("given", environ=environ).token == "given"
    assert Security("", environ=environ).token == ""
    assert Security(environ=environ).token == "from-environment"
    del environ["STAGELINE_TOKEN"]
    assert Security(environ=environ).token == "from-file"
    assert Security(environ={}).token == ""
    assert "from-file" not in repr(Security(environ=environ))


def test_a_file_that_others_may_read_is_refused(file: Path) -> None:
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="may be read by others"):
        Security(environ={"STAGELINE_TOKEN_FILE": str(file)})


@pytest.mark.parametrize(
    ("tls", "environ", "address", "spoken"),
    [
        (None, {}, HERE, False),
        (None, {}, THERE, False),
        (None, {}, f"tls://{THERE}", True),
        (None, {"STAGELINE_TLS": "on"}, HERE, True),
        (None, {"STAGELINE_TLS": "off"}, f"tcp://{HERE}", False),
        (None, {"STAGELINE_CA_FILE": "ca"}, HERE, True),
        (None, {"STAGELINE_CA_FILE": "ca", "STAGELINE_TLS": "off"}, HERE, False),
        (False, {"STAGELINE_CA_FILE": "ca"}, HERE, False),
        (True, {"STAGELINE_TLS": "off"}, HERE, True),
    ],
)
def test_when_tls_is_spoken(
    tls: Any, environ: dict[str, str], address: str, spoken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tls, "context", lambda self: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    found = Security("", tls, environ)
    assert (found.context(address) is not None) == spoken
    assert found.context(address) is found.context(address), "made once"


def test_a_token_passes_no_network_in_the_clear_by_accident() -> None:
    assert Security("t", environ={}).context(HERE) is None
    assert Security("", environ={}).context(THERE) is None
    assert Security("t", False, environ={}).context(THERE) is None
    assert Security("t", environ={"STAGELINE_TLS": "off"}).context(THERE) is None
    with pytest.raises(ConfigError, match=r"refusing to send the token to 10\.0\.0\.1 in the clear") as caught:
        Security("secret", environ={}).context(THERE)
    assert "secret" not in str(caught.value)


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="STAGELINE_TLS must be on or off, got 'yes'"):
        Security(environ={"STAGELINE_TLS": "yes"})
    with pytest.raises(ConfigError, match=r"cannot use .*none as certificate authority: No such file"):
        Security(tls=Tls(tmp_path / "none"), environ={}).context(HERE)
    (tmp_path / "empty").write_text("")
    with pytest.raises(ConfigError, match=r"cannot use .*empty as certificate authority"):
        Security(environ={"STAGELINE_CA_FILE": str(tmp_path / "empty")}).context(HERE)


def test_certificates_and_keys_are_checked(certificates: Any, tmp_path: Path) -> None:
    c = certificates
    assert Tls(c.ca, c.client, c.client_key).context().verify_mode is ssl.CERT_REQUIRED
    with pytest.raises(ConfigError, match=r"cannot use the certificate .* with the key .*: key values mismatch"):
        Tls(c.ca, c.client, c.other_key).context()
    key = tmp_path / "key"
    key.write_bytes(c.client_key.read_bytes())
    key.chmod(0o604)
    with pytest.raises(ConfigError, match="may be read by everybody: chmod o-rwx"):
        Tls(c.ca, c.client, key).context()


def test_the_name_to_look_for_is_the_addresss_host_unless_given() -> None:
    assert Security("", True, environ={}).server_name("tls://box.example:7710") == "box.example"
    assert Security("", True, environ={}).server_name("[::1]:7710") == "::1"
    assert Security("", Tls(server_name="gateway"), environ={}).server_name(HERE) == "gateway"
