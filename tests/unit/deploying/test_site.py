"""SITE.yaml: what is in it, and what is wrong in it by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from boxes import FILE, site, wanted

from stageline.errors import ConfigError


def test_a_site_is_its_services_in_order(tmp_path: Path) -> None:
    about = site(tmp_path)
    assert [(one.container, one.name) for one in about.services] == [
        ("shop-coordinator-hub", "coordinator"),
        ("shop-gateway-hub", "gateway-hub"),
        ("shop-stage-one", "one"),
        ("shop-stage-two", "two"),
    ]
    hub, gateway, one, _ = about.services
    assert "STAGELINE_COORDINATOR" not in hub.environment and hub.environment["STAGELINE_HOST"] == "10.0.0.1"
    assert one.environment == {
        "STAGELINE_HOST": "10.0.0.2",
        "STAGELINE_KEYS_DIR": "/var/lib/stageline/keys",
        "STAGELINE_NAME": "one",
        "STAGELINE_COORDINATOR": "tcp://10.0.0.1:7700",
        "STAGELINE_THREADS": "2",
    }
    assert (gateway.image, one.image) == ("stageline-control", "stageline-stage")
    assert (gateway.grace_s, one.grace_s) == (15, 20)  # a little longer than they drain
    assert about.tls("two") == tmp_path / "certs" and about.tls("one") is None
    assert (about.keys, about.wait_s) == (tmp_path / "keys", 5.0)


def test_a_box_may_have_settings_ports_and_images_of_its_own(tmp_path: Path) -> None:
    about = site(
        tmp_path,
        """
images: {control: registry:5000/control, stage: x}
coordinator: {port: 7800, blob_keep_s: 60}
stage: {threads: 4, drain_s: 3}
archives: [all.tar]
boxes:
  a: {address: a.local, runs: [coordinator, stage], images: {stage: jetson:36}, stage: {threads: 1}}
  b: {address: b.local, runs: []}
""",
    )
    assert about.name == "site"
    coordinator, stage = about.services
    assert stage.environment["STAGELINE_COORDINATOR"] == "tcp://a.local:7800"
    assert (stage.environment["STAGELINE_THREADS"], stage.grace_s, stage.image) == ("1", 8, "jetson:36")
    assert coordinator.image == "registry:5000/control" and about.archives == (tmp_path / "all.tar",)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("site: shop", "site: ../x"), r"'../x' cannot be the name of a site"),
        (("  one:", "  One:"), r"'One' cannot be the name of a box"),
        (("runs: [coordinator, gateway]", "runs: [gateway]"), "one box runs the coordinator, not 0"),
        (("runs: [stage]}", "runs: [stage, coordinator]}"), "one box runs the coordinator, not 2"),
        (("runs: [stage]}", "runs: [stage, stage]}"), "box two runs something twice"),
        (("threads: 2", "threads: none"), r"STAGELINE_THREADS: Expected `int`"),
        (("threads: 2", "threads: 0"), "threads must be above 0"),
        (("threads: 2", "treads: 2"), "stage: treads is no setting of a stage"),
        (("threads: 2", "join_token: x"), "stage: join_token is not for this file to set"),
        (("address: 10.0.0.3", "address: 127.0.0.1"), "box two: the others cannot reach 127.0.0.1"),
        (("address: 10.0.0.3", "address: a b"), "box two: 'a b' is no address"),
        (("wait_s: 5", "wait_s: 0"), "wait_s must be a number of seconds above 0"),
        (("wait_s: 5", "wait: 5"), "unknown field `wait`"),
        (("runs: [stage]}", "runs: [worker]}"), r"Invalid enum value 'worker' - at `\$.boxes\[...\].runs\[0\]`"),
        (("runs: [stage]}", "images: {stage: x}}"), "missing required field `runs`"),
        (("stage: {threads: 2}", "gateway: {client_host: 0.0.0.0}"), ""),
    ],
    ids=str,
)
def test_what_is_wrong_is_named_with_the_file(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    assert change[0] in FILE
    text = FILE.replace(*change)
    if not says:  # settings of what does not run there
        site(tmp_path, text)
        return
    with pytest.raises(ConfigError, match=rf"site\.yaml: .*{says}"):
        site(tmp_path, text)


def test_files_that_settings_name_are_brought_along(tmp_path: Path) -> None:
    settings = "gateway: {client_host: 10.0.0.1, tokens_file: tokens.json, tls_cert: cert.pem}"
    text = FILE.replace("runs: [coordinator, gateway]", f"runs: [coordinator, gateway], {settings}")
    (tmp_path / "tokens.json").write_bytes(b"tokens")
    with pytest.raises(ConfigError, match=r"site\.yaml: cannot read .*cert\.pem: No such file"):
        site(tmp_path, text)
    (tmp_path / "cert.pem").write_bytes(b"old")
    before = site(tmp_path, text)
    gateway = before.services[1]
    assert gateway.environment["STAGELINE_TLS_CERT"] == "/var/lib/stageline/files/stageline_tls_cert"
    assert gateway.files == {"files/stageline_tokens_file": b"tokens", "files/stageline_tls_cert": b"old"}
    (tmp_path / "cert.pem").write_bytes(b"new")
    old, new = (wanted(about)[1].digest for about in (before, site(tmp_path, text)))
    assert old != new


def test_what_a_service_would_refuse_is_refused_before_anything_is_changed(tmp_path: Path) -> None:
    text = FILE.replace("runs: [coordinator, gateway]", "runs: [coordinator, gateway], gateway: {client_host: 0.0.0.0}")
    with pytest.raises(ConfigError, match=r"refusing to serve clients on 0\.0\.0\.0"):
        site(tmp_path, text)
