"""`python -m stageline.emulation.load SETTINGS GATEWAY`: the load of an emulation, in a container beside the gateway.

SETTINGS are a `stageline.bench.report.Settings` as JSON. On stdout a line of JSON each: ``{"begun": …}``, by the clock
that all containers of a machine share; ``{"slice": …}`` every half second, with the latencies in milliseconds of the
answers that came in it; ``{"figures": …}`` at the end. The warm-up is in the slices, not in the figures.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from stageline.bench.drive import Driver
from stageline.bench.inputs import make_pool
from stageline.bench.pacing import pacer
from stageline.bench.recorder import Recorder
from stageline.bench.report import Settings, as_json
from stageline.bench.schedule import Window
from stageline.client import Client
from stageline.emulation.record import SLICE_S
from stageline.errors import StagelineError

Say = Callable[[dict[str, Any]], None]


class SlicingRecorder(Recorder):
    """One that also says, for every `SLICE_S` seconds, what ended in them."""

    def __init__(self, window: Window, say: Say) -> None:
        super().__init__(window)
        self._say = say
        self._number = 0
        self._answered_ms: list[float] = []
        self._failed = 0

    def answered(self, intended: float, now: float, *, attempts: int = 1, shared: int = 1) -> None:
        """As the parent; it counts where it ended."""
        self.turn(now)
        self._answered_ms.append(round(1000 * (now - intended), 2))
        super().answered(intended, now, attempts=attempts, shared=shared)

    def failed(self, intended: float, code: str, message: str) -> None:
        """As the parent."""
        self._failed += 1
        super().failed(intended, code, message)

    def turn(self, now: float) -> None:
        """Say what is over; call it often."""
        while now >= (self._number + 1) * SLICE_S:
            self._say({"slice": self._number, "answered_ms": self._answered_ms, "failed": self._failed})
            self._number += 1
            self._answered_ms, self._failed = [], 0


def run(settings: Settings, gateway: str, say: Say) -> None:
    """Until the settings' time is up and all has ended."""
    window = Window(settings.warmup_s, settings.duration_s)
    recorder = SlicingRecorder(window, say)
    with Client(gateway, name="load", retry=None) as client:
        inputs = make_pool(client.describe(settings.model)[settings.model].signature, settings.batch, settings.seed)
        begun = time.monotonic()
        say({"begun": begun})
        Driver(
            functools.partial(client.submit, settings.model),
            inputs,
            pacer(settings, window),
            recorder,
            window.end_s,
            lambda text, part: recorder.turn(time.monotonic() - begun),
        ).run()
        recorder.turn(time.monotonic() - begun + SLICE_S)
    say({"figures": as_json(settings, recorder.figures())})


def main(asked: str, gateway: str) -> None:
    """Run it; one line on stderr when it cannot."""
    try:
        run(Settings(**json.loads(asked)), gateway, lambda line: print(json.dumps(line), flush=True))  # noqa: T201
    except StagelineError as error:
        sys.exit(f"load: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
