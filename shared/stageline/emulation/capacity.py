"""Whether a machine can hold an emulation, and how its processors are shared out. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from stageline.emulation.spec import Emulation
from stageline.errors import ConfigError

PERIOD_US = 10_000
SLOW_PERIOD_US = 25_000
"""Below a tenth of a CPU: shorter slices than the scheduler's are not kept, and Docker takes none below 1 ms."""

LEAST_CPUS = 0.04
"""1 ms in `SLOW_PERIOD_US`."""

RESERVED_CPUS = 0.4
"""For what is not emulated: coordinator, gateway, load, and Docker."""

RESERVED_MIB = 1024


def quota(cpus: float) -> tuple[int, int]:
    """Microseconds of a container's CPU (period, quota): as short as the kernel keeps, so that a box is slow evenly."""
    period = PERIOD_US if cpus >= 0.1 else SLOW_PERIOD_US
    return period, round(period * cpus)


def check_capacity(emulation: Emulation, cpus: float, memory_mib: int) -> None:
    """Raises `ConfigError` if the machine, of `cpus` CPUs and so much memory, cannot be all these boxes at once."""
    room = cpus - RESERVED_CPUS
    if emulation.cpus > room + 1e-9:
        raise ConfigError(
            f"{emulation.name}: its {len(emulation.boxes)} nodes have {emulation.cpus:.4g} CPUs together, and this "
            f"machine can give {max(0.0, room):.4g} ({cpus:g}, less {RESERVED_CPUS} for coordinator, gateway and "
            "load): lower cpus or count"
        )
    wanted, there = sum(box.memory_mib for box in emulation.boxes), memory_mib - RESERVED_MIB
    if wanted > there:
        raise ConfigError(
            f"{emulation.name}: its nodes have {wanted} MiB of memory together, and this machine can give "
            f"{max(0, there)} ({memory_mib}, less {RESERVED_MIB}): lower memory_mib or count"
        )


def share_cores(cpus: Sequence[float], cores: Sequence[int]) -> list[int]:
    """The core of each box, largest first: boxes that share one get no less than their quotas, as long as these fit."""
    loads = dict.fromkeys(cores, 0.0)
    found: dict[int, int] = {}
    for number in sorted(range(len(cpus)), key=lambda number: -cpus[number]):
        found[number] = min(loads, key=lambda core: loads[core])
        loads[found[number]] += cpus[number]
    return [found[number] for number in range(len(cpus))]


def pinned(cpus: Sequence[float], cores: Sequence[int]) -> list[str]:
    """As Docker writes it, the core that each box stays on, or "" for all where the boxes do not fit core by core."""
    chosen = share_cores(cpus, cores)
    loads = [sum(one for one, core in zip(cpus, chosen, strict=True) if core == each) for each in set(chosen)]
    fits = all(load <= 1.0 + 1e-9 for load in loads)
    return [str(core) if fits else "" for core in chosen]
