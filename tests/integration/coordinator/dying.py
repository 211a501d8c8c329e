"""A real coordinator that dies at a chosen step of putting a plan that serves in force.

``dying.py STEP FLAGS…``: STEP is `before disk`, `disk N` (while SQLite writes: after N bytes of what it appends to
its log), `after disk`, `before plan`, `after plan`, `before digest`, `after digest`, `before retire`, `after retire`.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stageline.messages import Retire
from stageline.plan import Digest, Plan
from stageline_coordinator.__main__ import main
from stageline_coordinator.control import ControlSocket
from stageline_coordinator.leading import Leader
from stageline_coordinator.store import Store

STEP = sys.argv.pop(1)
_serving = False


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def around(step: str, act: Callable[[], Any]) -> Any:
    """Do it, unless this is where to die."""
    if f"before {step}" == STEP:
        die()
    done = act()
    if f"after {step}" == STEP:
        die()
    return done


def limit_log(store: Store, nbytes: int) -> None:
    """The kernel ends this process (SIGXFSZ) when a file grows beyond what the log has now and `nbytes` more."""
    (_, _, path) = store._db.execute("PRAGMA database_list").fetchone()
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    size = Path(f"{path}-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + nbytes, resource.RLIM_INFINITY))


put_plan, publish, send = Store.put_plan, Leader._publish, ControlSocket.send


def dying_put(self: Store, plan: Plan) -> None:
    global _serving
    _serving = any(model.status == "serving" for model in plan.models)
    if _serving and STEP.startswith("disk "):
        limit_log(self, int(STEP.removeprefix("disk ")))
    put = lambda: put_plan(self, plan)  # noqa: E731
    around("disk", put) if _serving else put()


def dying_publish(self: Leader, message: Plan | Digest) -> None:
    act = lambda: publish(self, message)  # noqa: E731
    around("plan" if isinstance(message, Plan) else "digest", act) if _serving else act()


def dying_send(self: ControlSocket, peer: str, message: Any) -> bool:
    act = lambda: send(self, peer, message)  # noqa: E731
    return bool(around("retire", act) if _serving and isinstance(message, Retire) else act())


Store.put_plan, Leader._publish, ControlSocket.send = dying_put, dying_publish, dying_send  # type: ignore[method-assign]

if __name__ == "__main__":
    main()
