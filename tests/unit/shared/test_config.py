"""Settings: one precedence, and errors that name the setting and where it came from."""

from __future__ import annotations

from pathlib import Path

import pytest

from stageline.config import CoordinatorConfig, GatewayConfig, StageConfig, default_data_dir, load
from stageline.errors import ConfigError


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    file = write(tmp_path / "c.yaml", "gateway: {max_batch: 2}\n")
    environ = {"STAGELINE_MAX_BATCH": "3"}
    assert load(GatewayConfig, flags={}, environ={}).max_batch == 8
    assert load(GatewayConfig, flags={}, environ={}, file=file).max_batch == 2
    assert load(GatewayConfig, flags={}, environ=environ, file=file).max_batch == 3
    assert load(GatewayConfig, flags={"max_batch": "4"}, environ=environ, file=file).max_batch == 4


def test_the_environment_may_name_the_file(tmp_path: Path) -> None:
    file = write(tmp_path / "c.yaml", "stage: {threads: 2}\n")
    assert load(StageConfig, flags={}, environ={"STAGELINE_CONFIG": str(file)}).threads == 2


def test_only_the_services_own_section_counts(tmp_path: Path) -> None:
    file = write(tmp_path / "c.yaml", "gateway: {port: 1}\ncoordinator: {port: 2}\n")
    assert load(GatewayConfig, flags={}, environ={}, file=file).port == 1
    assert load(CoordinatorConfig, flags={}, environ={}, file=file).port == 2


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("gateway: {max_bach: 2}", "unknown setting gateway.max_bach; known: "),
        ("gatway: {}", "unknown section gatway"),
        ("stage: {thread: 2}", "unknown setting stage.thread; known: "),
        ("coordinator: [1]", "section coordinator must map settings to values"),
        ("gateway: [1]", "section gateway must map settings to values"),
        ("gateway: {max_batch: many}", "max_batch in "),
        ("- 1", "unknown section"),
        ("gateway: {", "is not valid YAML"),
    ],
)
def test_a_bad_file_is_refused_by_name(tmp_path: Path, text: str, wanted: str) -> None:
    with pytest.raises(ConfigError, match=r"c\.yaml") as caught:
        load(GatewayConfig, flags={}, environ={}, file=write(tmp_path / "c.yaml", text))
    assert wanted in str(caught.value)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the config file"):
        load(GatewayConfig, flags={}, environ={}, file=tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("flags", "environ", "wanted"),
    [
        ({"max_batch": "x"}, {}, "--max-batch"),
        ({}, {"STAGELINE_MAX_BATCH": "x"}, "STAGELINE_MAX_BATCH"),
        ({"log_level": "loud"}, {}, "--log-level"),
        ({"port": "65536"}, {}, "port must be between 0 and 65535"),
        ({"window": "-1"}, {}, "window must not be negative"),
        ({"batch_delay_ms": "nan"}, {}, "batch_delay_ms must be a finite number"),
        ({"drain_s": "inf"}, {}, "drain_s must be a finite number"),
        ({"max_batch": "0"}, {}, "max_batch must be above 0"),
        ({"coordinator": "localhost:7700"}, {}, "coordinator must look like tcp://"),
        ({"host": "0.0.0.0"}, {}, "run `stageline keys init"),
        ({"http_host": "0.0.0.0"}, {}, "set http_token_file"),
        ({"client_host": "0.0.0.0"}, {}, "refusing to serve clients on 0.0.0.0: whoever reaches that"),
        ({"client_host": "0.0.0.0"}, {}, "set tokens_file and tls_cert, or"),
        ({"client_host": "0.0.0.0", "tls_cert": "c"}, {}, "set tokens_file, or"),
        ({"client_host": "0.0.0.0", "tokens_file": "t"}, {}, "without TLS: everybody on the way could read"),
        ({"tls_client_ca": "c"}, {}, "tls_client_ca is of no use without tls_cert"),
        ({"tls_key": "c"}, {}, "tls_key is of no use without tls_cert"),
    ],
)
def test_a_bad_value_names_its_origin(flags: dict[str, str], environ: dict[str, str], wanted: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(GatewayConfig, flags=flags, environ=environ)
    assert wanted in str(caught.value)


def test_paths_expand_the_home_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load(StageConfig, flags={"cache_dir": "~/cache"}, environ={}).cache_dir == tmp_path / "cache"


def test_the_data_directory_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_data_dir() == tmp_path / "stageline"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_data_dir() == tmp_path / ".local/share/stageline"


@pytest.mark.parametrize(
    ("address", "wanted"),
    [
        ("127.0.0.1:7720", "must look like tcp://"),
        ("tcp://127.0.0.1", "must look like tcp://"),
        ("tcp://127.0.0.1:0", "must look like tcp://"),
        ("tcp://192.168.1.7:7720", "beyond loopback"),
    ],
)
def test_a_data_address_that_nobody_could_use_is_refused(address: str, wanted: str) -> None:
    for kind in (GatewayConfig, StageConfig):
        assert load(kind, flags={"data_address": "tcp://127.0.0.1:7720"}, environ={}).data_address
        with pytest.raises(ConfigError, match=wanted):
            load(kind, flags={"data_address": address}, environ={})


def test_with_keys_a_service_may_listen_and_be_reached_anywhere(tmp_path: Path) -> None:
    flags = {"keys_dir": str(tmp_path), "host": "0.0.0.0", "data_address": "tcp://192.168.1.7:7720"}
    for kind in (GatewayConfig, StageConfig):
        assert load(kind, flags=flags, environ={}).host == "0.0.0.0"
    with pytest.raises(ConfigError, match="refusing to serve clients"):
        load(GatewayConfig, flags={**flags, "client_host": "0.0.0.0"}, environ={})
    assert load(GatewayConfig, flags={**flags, "client_host": "0.0.0.0", "insecure": "true"}, environ={}).insecure


@pytest.mark.parametrize(
    "flags",
    [
        {"tokens_file": "t", "tls_cert": "c"},
        {"tls_client_ca": "a", "tls_cert": "c", "tls_key": "k"},
        {"tokens_file": "t", "insecure": "true"},
        {"insecure": "true"},
    ],
)
def test_clients_may_come_from_anywhere_if_it_is_known_who_they_are(flags: dict[str, str]) -> None:
    assert load(GatewayConfig, flags={**flags, "client_host": "0.0.0.0"}, environ={}).client_host == "0.0.0.0"


def test_tokens_open_the_http_port_of_a_gateway_too() -> None:
    assert load(GatewayConfig, flags={"tokens_file": "t", "http_host": "0.0.0.0"}, environ={}).http_host == "0.0.0.0"
