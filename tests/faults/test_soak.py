"""What the soak looks at, every change for the worse in the coordinator's broadcasts, and what it imports."""

from __future__ import annotations

from pathlib import Path

from faults.soak import SOURCES, accusations

from stageline.blobs import BlobStore
from stageline.plan import NodeView
from stageline_stage.importer import import_module
from stageline_stage.importer.factory import load_factory


def view(state: str = "alive", executor: str = "a/1") -> dict[str, NodeView]:
    return {"a": NodeView("a", "i", state, (executor,))}  # type: ignore[arg-type]


def test_nothing_is_held_against_those_who_stay_alive() -> None:
    assert accusations([(5.0, {}), (6.0, view()), (7.0, view())]) == []


def test_suspicion_absence_and_another_executor_are_found() -> None:
    seen = [(5.0, view()), (6.0, view("suspect")), (7.0, view()), (8.0, {}), (9.0, view(executor="a/2"))]
    assert accusations(seen) == [
        "1.0 s: a is suspect with executors ['a/1']",
        "2.0 s: a is alive with executors ['a/1']",
        "3.0 s: a is left out",
        "4.0 s: a is alive with executors ['a/2']",
    ]


def test_the_small_model_can_be_imported(tmp_path: Path) -> None:
    manifest = import_module(*load_factory(SOURCES[0]), name="small", store=BlobStore(tmp_path))
    assert len(manifest.blocks) > 1
