"""The stack file: nothing in it is refused or left out by Docker Swarm, and what must hold of every service does."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from stageline.config import CoordinatorConfig, GatewayConfig, StageConfig, load

COMPOSE = Path(__file__).parents[3] / "compose"
KINDS = {"coordinator": CoordinatorConfig, "gateway": GatewayConfig, "stage": StageConfig}
SERVICES = sorted(KINDS)
LEFT_OUT = {"build", "container_name", "depends_on", "network_mode", "profiles", "restart", "security_opt", "tmpfs"}
"""What `docker stack deploy` ignores or refuses."""


@pytest.fixture(scope="module")
def stack() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((COMPOSE / "stack.yaml").read_text())
    return found


def environment(service: dict[str, Any]) -> dict[str, str]:
    """Its settings, with variables at their defaults."""
    return {
        name: value.split(":-")[-1].rstrip("}") if value.startswith("${") else value
        for name, value in service["environment"].items()
    }


def test_services_are_those_that_there_are(stack: dict[str, Any]) -> None:
    assert sorted(stack["services"]) == SERVICES
    assert stack["version"] == "3.8"  # without one, Docker 20 takes it for a file of 2014
    assert stack["networks"] == {"cluster": {"driver": "overlay", "attachable": True}}
    mounted = [volume for one in stack["services"].values() for volume in one["volumes"] if isinstance(volume, str)]
    assert {volume.split(":")[0] for volume in mounted} == set(stack["volumes"])


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_placed_and_has_what_swarm_heeds(stack: dict[str, Any], name: str) -> None:
    service = stack["services"][name]
    assert not LEFT_OUT & set(service)
    assert service["read_only"] and service["init"] and service["cap_drop"] == ["ALL"]
    assert service["networks"] == ["cluster"]
    deploy = service["deploy"]
    assert deploy["endpoint_mode"] == "dnsrr"
    assert deploy["placement"] == {"constraints": [f"node.labels.stageline.{name} == true"]}
    assert deploy["update_config"] | {"monitor": ""} == {
        "parallelism": 1, "order": "stop-first", "failure_action": "rollback", "monitor": "",
    }  # fmt: skip
    assert all(port["mode"] == "host" for port in service.get("ports", ()))  # the other kind needs an address for all
    scratch = {volume["target"] for volume in service["volumes"] if isinstance(volume, dict)}
    assert scratch == {"/tmp"}  # any other would be root's
    assert service["environment"]["STAGELINE_READY_FILE"].startswith("/tmp/")


def test_a_worker_runs_once_on_each_box_under_its_name(stack: dict[str, Any]) -> None:
    stage = stack["services"]["stage"]
    assert stage["deploy"]["mode"] == "global"
    assert environment(stage)["STAGELINE_NAME"] == "{{.Node.Hostname}}"
    assert "replicas" not in stage["deploy"]


@pytest.mark.parametrize("name", SERVICES)
def test_settings_hold_and_keys_come_from_secrets(stack: dict[str, Any], name: str) -> None:
    service = stack["services"][name]
    config = load(KINDS[name], flags={}, environ=environment(service))
    named = {key.removeprefix("STAGELINE_").lower() for key in service["environment"]}
    assert named <= set(KINDS[name].__dataclass_fields__)
    assert config.host == "0.0.0.0" and config.keys_dir is not None
    files = {secret.get("target", f"/run/secrets/{secret['source']}") for secret in service["secrets"]}
    if isinstance(config, CoordinatorConfig):
        assert files == {f"{config.keys_dir}/coordinator.key", f"{config.keys_dir}/admins/admin.pub"}
    else:
        assert files == {str(config.join_token_file)}
        assert config.coordinator == "tcp://coordinator:7700"
        assert any(str(config.keys_dir).startswith(volume.split(":")[1]) for volume in service["volumes"][:1])
    for secret in service["secrets"]:
        assert (secret["uid"], secret["gid"], secret["mode"]) == ("10001", "10001", 0o400)
        assert stack["secrets"][secret["source"]]["external"]


@pytest.mark.skipif(shutil.which("docker") is None, reason="docker is not installed")
def test_docker_itself_takes_it() -> None:
    command = ["docker", "stack", "config", "--help"]
    if "--compose-file" not in subprocess.run(command, capture_output=True, text=True, timeout=60).stdout:
        pytest.skip("this docker has no `stack config`: it came with version 23")
    done = subprocess.run([*command[:3], "-c", str(COMPOSE / "stack.yaml")], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    assert sorted(services) == SERVICES, json.dumps(services)
