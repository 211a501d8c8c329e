from __future__ import annotations

from typing import Any

from prometheus_client import generate_latest

from stageline.messages import Backed, Backing, Load, Unload
from stageline.plan import StageKey
from stageline_stage.served import Backends
from stageline_stage.status import Status, registry

A, B = (StageKey(manifest="a" * 64, start=i, end=i + 1) for i in range(2))


class Log:
    """What was logged, by level."""

    def __init__(self) -> None:
        self.said: list[tuple[str, dict[str, Any]]] = []

    def info(self, event: str, **values: Any) -> None:
        self.said.append(("info", values))

    def warning(self, event: str, **values: Any) -> None:
        self.said.append(("warning", values))


def serving() -> tuple[Backends, Log]:
    log = Log()
    backends = Backends(log)  # type: ignore[arg-type]
    for stage in (A, B):
        backends.told(Load(stage=stage, graphs=(), tensors={}))
    return backends, log


def test_torch_serves_until_something_else_is_heard() -> None:
    backends, log = serving()
    assert (backends.counts, backends.rows) == ({"eager": 2}, ())
    backends.heard(Backed(stage=A, backend="openvino", precision="bf16", eager_s=0.077, seconds=0.033))
    assert backends.counts == {"eager": 1, "openvino": 1}
    assert backends.rows == (Backing(stage=A, backend="openvino", precision="bf16", eager_s=0.077, seconds=0.033),)
    assert log.said[-1][0] == "info" and log.said[-1][1]["ms"] == 33.0


def test_a_stage_that_falls_back_is_counted_and_says_why() -> None:
    backends, log = serving()
    backends.heard(Backed(stage=A, backend="openvino", seconds=1.0, eager_s=2.0))
    backends.heard(Backed(stage=A, backend="eager", reason="out of tolerance", lost=True))
    backends.heard(Backed(stage=B, backend="eager", reason="openvino is not faster"))
    assert (backends.counts, backends.fallbacks) == ({"eager": 2}, 1)
    assert [one.reason for one in backends.rows] == ["out of tolerance", "openvino is not faster"]
    assert [level for level, _ in log.said] == ["info", "warning", "info"]


def test_what_is_not_served_any_more_is_not_spoken_of() -> None:
    backends, _ = serving()
    backends.heard(Backed(stage=A, backend="openvino"))
    backends.told(Unload(stage=A))
    backends.heard(Backed(stage=A, backend="eager", lost=True))
    assert (backends.counts, backends.rows, backends.fallbacks) == ({"eager": 1}, (), 0)
    backends.executor_down()
    assert backends.counts == {}


def test_the_metrics_say_it() -> None:
    page = generate_latest(registry(lambda: Status(backends={"eager": 1, "openvino": 2}, fallbacks=3))).decode()
    assert 'stageline_stage_backend_stages{backend="openvino"} 2.0' in page
    assert 'stageline_stage_backend_stages{backend="eager"} 1.0' in page
    assert "stageline_stage_backend_fallbacks_total 3.0" in page
