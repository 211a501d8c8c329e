"""Listening to the coordinator's broadcasts, to time detection and re-planning as a client could."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

from stageline.messages import PLAN
from stageline.plan import Digest, ModelPlan, Plan
from stageline.sockets import Sockets
from stageline.wire import Decoder

POLL_MS = 50
_decode: Decoder[Plan | Digest] = Decoder(PLAN.to_connector)


class Broadcasts:
    """Remembers when a node was first seen suspect or gone, and each model's placement when it came."""

    def __init__(self, address: str) -> None:
        self._sockets = Sockets()
        self._socket = self._sockets.connect(PLAN, address)
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self.states: dict[tuple[str, str], float] = {}
        self.plans: list[tuple[float, Plan]] = []
        self._thread = threading.Thread(target=self._run, name="broadcasts", daemon=True)
        self._thread.start()

    def __enter__(self) -> Broadcasts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._sockets.close()

    def wait_for(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until a broadcast makes the condition true."""
        with self._changed:
            return self._changed.wait_for(condition, timeout_s)

    def first_plan_without(self, node: str, model: str, after: float) -> tuple[float, ModelPlan] | None:
        """When a plan came that serves `model` without `node`, and that placement."""
        for came, plan in self.plans:
            placed = plan.model(model)
            if came >= after and placed is not None and placed.status == "serving" and node not in nodes_of(placed):
                return came, placed
        return None

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._socket.poll(POLL_MS):
                message = _decode(self._socket.recv_multipart()[1])
                with self._changed:
                    self._note(message, time.monotonic())
                    self._changed.notify_all()

    def _note(self, message: Plan | Digest, now: float) -> None:
        for node in message.nodes:
            if node.state in ("suspect", "gone"):
                self.states.setdefault((node.node, node.state), now)
        if isinstance(message, Plan) and (not self.plans or message.epoch > self.plans[-1][1].epoch):
            self.plans.append((now, message))


def nodes_of(model: ModelPlan) -> list[str]:
    """The nodes that serve a model, by stage."""
    return [replica.node for stage in model.stages for replica in stage.replicas]
