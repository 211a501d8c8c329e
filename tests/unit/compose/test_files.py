"""The files of compose/: what they name exists, and what must hold of every service does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from stageline.client.security import CA_FILE, TOKEN_FILE
from stageline.config import CoordinatorConfig, GatewayConfig, StageConfig
from stageline_coordinator.metrics import Metrics as CoordinatorMetrics
from stageline_gateway.metrics import Metrics as GatewayMetrics
from stageline_stage.status import Status
from stageline_stage.status import registry as stage_registry

COMPOSE = Path(__file__).parents[3] / "compose"
MONITORING = COMPOSE / "monitoring"
OURS = ("keys", "coordinator", "gateway", "stage", "digits", "cli", "joining")
OF_CLIENTS = {TOKEN_FILE, CA_FILE}
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = read(COMPOSE / "compose.yaml")["services"]
    return {**found, "joining": read(COMPOSE / "join.yaml")["services"]["stage"]}


def samples(registry: CollectorRegistry) -> dict[str, Metric]:
    """What a service shows, by the name that a query uses."""
    return {metric.name + end: metric for metric in registry.collect() for end in SUFFIXES[metric.type]}


def test_every_metric_of_the_dashboard_is_shown_by_a_service() -> None:
    registries = (CoordinatorMetrics().registry, GatewayMetrics().registry, stage_registry(Status))
    shown = {name for registry in registries for name in samples(registry)}
    panels = json.loads((MONITORING / "grafana/dashboards/stageline.json").read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    asked = {name for query in queries for name in re.findall(r"stageline_\w+", query)}
    assert len(asked) > 10
    assert asked <= shown, sorted(asked - shown)


def test_every_dashboard_panel_has_a_place_of_its_own() -> None:
    panels = json.loads((MONITORING / "grafana/dashboards/stageline.json").read_text())["panels"]
    places = [panel["gridPos"] for panel in panels]
    assert len({(place["x"], place["y"]) for place in places}) == len(panels)
    assert all(place["x"] + place["w"] <= 24 for place in places)


def test_prometheus_asks_the_ports_that_services_have() -> None:
    jobs = read(MONITORING / "prometheus.yaml")["scrape_configs"]
    asked = {job["job_name"]: int(job["static_configs"][0]["targets"][0].rsplit(":", 1)[1]) for job in jobs}
    kinds = (CoordinatorConfig, GatewayConfig, StageConfig)
    assert asked == {kind.section: kind().http_port for kind in kinds}


def test_grafana_is_told_of_prometheus_and_the_dashboard(services: dict[str, Any]) -> None:
    (source,) = read(MONITORING / "grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    dashboard = json.loads((MONITORING / "grafana/dashboards/stageline.json").read_text())
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {source["uid"]}
    (provider,) = read(MONITORING / "grafana/provisioning/dashboards/stageline.yaml")["providers"]
    mounted = [volume.split(":") for volume in services["grafana"]["volumes"]]
    assert provider["options"]["path"] in [target for _, target, *_ in mounted]
    assert all((COMPOSE / source).exists() for source, *_ in mounted if source.startswith("./"))


@pytest.mark.parametrize("name", OURS)
def test_services_run_with_as_little_as_possible(services: dict[str, Any], name: str) -> None:
    service = services[name]
    assert service["read_only"] and service["init"] and service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service and "cap_add" not in service


@pytest.mark.parametrize("name", ["coordinator", "gateway", "stage"])
def test_a_service_has_its_own_keys_and_nobody_elses(services: dict[str, Any], name: str) -> None:
    mounted = [volume for volume in services[name]["volumes"] if "keys" in volume]
    assert mounted == [f"{name}-keys:/etc/stageline/keys"]  # writable, for `keys rotate`
    made = [volume.split(":")[0] for volume in services["keys"]["volumes"]]
    assert f"{name}-keys" in made
    assert services[name]["depends_on"] == {"keys": {"condition": "service_completed_successfully"}}


def test_the_gateway_needs_the_token_that_is_made_first(services: dict[str, Any]) -> None:
    places = {}
    for name in ("keys", "gateway", "cli"):
        (volume,) = [one for one in services[name]["volumes"] if one.startswith("clients:")]
        places[name] = volume.removeprefix("clients:")
    made = services["keys"]["command"][-1].split("--to ")[1]
    assert made == f"{places['keys']}/token"
    assert services["keys"]["environment"]["STAGELINE_TOKENS_FILE"] == f"{places['keys']}/tokens.json"
    inside = places["gateway"].removesuffix(":ro")
    assert places["gateway"] == places["cli"] != inside, "read only"
    assert services["gateway"]["environment"]["STAGELINE_TOKENS_FILE"] == f"{inside}/tokens.json"
    for name in ("gateway", "cli"):
        assert services[name]["environment"][TOKEN_FILE] == f"{inside}/token"


@pytest.mark.parametrize("name", sorted(set(OURS) - {"keys"}))
def test_settings_in_the_environment_are_known(services: dict[str, Any], name: str) -> None:
    kinds = (CoordinatorConfig, GatewayConfig, StageConfig)
    known = {f"STAGELINE_{field.upper()}" for kind in kinds for field in kind.__dataclass_fields__}
    named = {key for key in services[name]["environment"] if key.startswith("STAGELINE_")}
    assert named <= known | {"STAGELINE_GATEWAY"} | OF_CLIENTS, named - known


def test_locks_pin_every_line_by_hash() -> None:
    locks = sorted((COMPOSE / "locks").glob("*.txt"))
    assert {lock.stem.split("-", 1)[1] for lock in locks} == {"3.10-aarch64", "3.11-aarch64", "3.11-x86_64"}
    for lock in locks:
        lines = lock.read_text().replace("\\\n", "").splitlines()[1:]
        assert lines and all(re.fullmatch(r"\S+==\S+(\s+--hash=sha256:[0-9a-f]{64})+", line) for line in lines), lock


def test_the_control_image_gets_no_torch() -> None:
    for lock in (COMPOSE / "locks").glob("control-*.txt"):
        assert not re.search(r"^(torch|transformers|scipy|safetensors)==", lock.read_text(), re.MULTILINE), lock
