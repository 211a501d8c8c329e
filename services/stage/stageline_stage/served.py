"""Which backend runs which stage of this worker, as its executor says. Pure but for the log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from stageline.logs import Logger
from stageline.messages import Backed, Backing, Load, Unload
from stageline.plan import StageKey

EAGER = "eager"


class Backends:
    """A stage is served by torch until something else is heard of it.

    `fallbacks`: stages that torch serves although a backend was to. `rows`: for heartbeats, empty without backends.
    """

    def __init__(self, log: Logger) -> None:
        self.fallbacks = 0
        self.rows: tuple[Backing, ...] = ()
        self._served: dict[StageKey, Backing] = {}
        self._log = log

    @property
    def counts(self) -> Mapping[str, int]:
        """Stages by backend."""
        return Counter(backing.backend for backing in self._served.values())

    def told(self, message: Load | Unload) -> None:
        """The executor is to load or unload a stage."""
        if isinstance(message, Load):
            self._served[message.stage] = Backing(stage=message.stage, backend=EAGER)
        else:
            self._served.pop(message.stage, None)
        self._list()

    def heard(self, message: Backed) -> None:
        """The executor says what runs a stage."""
        if message.stage not in self._served:
            return
        self._served[message.stage] = Backing(
            stage=message.stage,
            backend=message.backend,
            reason=message.reason,
            eager_s=message.eager_s,
            seconds=message.seconds,
            precision=message.precision,
        )
        self._list()
        self.fallbacks += message.lost
        times = {"eager_ms": round(message.eager_s * 1e3, 3), "ms": round(message.seconds * 1e3, 3)}
        said = {"stage": str(message.stage), "backend": message.backend, **(times if message.seconds else {})}
        if message.lost:
            self._log.warning("a stage falls back to torch", reason=message.reason, **said)
        else:
            self._log.info("what runs a stage", precision=message.precision, **said, reason=message.reason or None)

    def executor_down(self) -> None:
        """Nothing is served any more."""
        self._served.clear()
        self._list()

    def _list(self) -> None:
        self.rows = tuple(one for one in self._served.values() if one.backend != EAGER or one.reason)
