"""What every benchmark shares: the machine in words, contenders taking turns, medians and ratios, JSON, progress.

Contenders are interleaved: each round runs every case once, so that whatever else the machine does hits all of them
alike. A figure is the median over rounds, a ratio the median of the rounds' ratios.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import zmq
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "pyzmq", "msgspec", "numpy", "ray", "mosec")


class SkippedError(Exception):
    """A contender cannot run here; the message says what would make it."""


class Contender(Protocol):
    """Something that carries tensors through two identity stages and back."""

    name: str
    transport: str

    def start(self) -> None:
        """Bring everything up; raises `SkippedError` where that is not possible."""

    def run(self, nbytes: int, window: int, items: int) -> float:
        """Seconds that `items` tensors of `nbytes` take with up to `window` of them under way."""

    def stop(self) -> None:
        """Leave nothing behind."""


def machine() -> dict[str, Any]:
    """What figures depend on, without a name of the machine or of a place on it."""
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "libzmq": zmq.zmq_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "load_average": round(os.getloadavg()[0], 2),
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":", 1)[1].strip() for line in info if line.startswith("model name")), platform.machine())


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def interleave(
    cases: Mapping[str, Callable[[], float]], rounds: int, tick: Callable[[], None]
) -> dict[str, list[float]]:
    """What each case gave in each round; every other round goes backwards, so that nobody is always first."""
    figures: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds):
        order = list(cases)
        for name in order if number % 2 == 0 else reversed(order):
            figures[name].append(cases[name]())
            tick()
    return figures


def summary(figures: Sequence[float], digits: int = 4) -> dict[str, float]:
    """Median, extremes and count."""
    return {
        "median": significant(statistics.median(figures), digits),
        "min": significant(min(figures), digits),
        "max": significant(max(figures), digits),
        "rounds": len(figures),
    }


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median of the ratios round by round: what disturbed a round disturbed both."""
    return significant(statistics.median(a / b for a, b in zip(above, below, strict=True)), 3)


def significant(value: float, digits: int) -> float:
    """Rounded to so many significant digits."""
    return float(f"{value:.{digits}g}")


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar on a terminal, nothing when piped; call what it gives at every step."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total)
        yield lambda: bar.advance(task)


def say(text: str) -> None:
    """A line for people; standard output holds the result."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def start_all(contenders: Iterable[Contender]) -> tuple[list[Contender], dict[str, str]]:
    """Those that came up, and why the others did not."""
    running: list[Contender] = []
    skipped: dict[str, str] = {}
    try:
        for contender in contenders:
            try:
                contender.start()
                running.append(contender)
            except SkippedError as error:
                skipped[contender.name] = str(error)
                say(f"{contender.name} skipped: {error}")
    except BaseException:
        stop_all(running)
        raise
    return running, skipped


def stop_all(contenders: Iterable[Contender]) -> None:
    """Stop them, last first."""
    for contender in reversed(list(contenders)):
        contender.stop()


def report(name: str, result: Mapping[str, Any], *, save: bool) -> None:
    """Print the result as JSON; keep it under `results/` too when asked."""
    text = keep(name, result) if save else _text(name, result)
    sys.stdout.write(text)


def keep(name: str, result: Mapping[str, Any]) -> str:
    """Keep the result under `results/`, without printing it; what was written."""
    text = _text(name, result)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(text)
    return text


def kept_rows(name: str) -> list[dict[str, Any]]:
    """The rows of the result that is kept; none where there is none."""
    file = RESULTS / f"{name}.json"
    rows: list[dict[str, Any]] = json.loads(file.read_text())["rows"] if file.exists() else []
    return rows


def _text(name: str, result: Mapping[str, Any]) -> str:
    return json.dumps({"benchmark": name, "date": time.strftime("%Y-%m-%d"), **result}, indent=1) + "\n"
