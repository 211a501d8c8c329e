"""The coordinator's broadcasts, written down as they come."""

from __future__ import annotations

import threading
import time

from stageline.messages import PLAN
from stageline.plan import Digest, NodeView, Plan
from stageline.sockets import Sockets
from stageline.wire import Decoder

POLL_MS = 50
_decode: Decoder[Plan | Digest] = Decoder(PLAN.to_connector)


class Watch:
    """Listens from its making to `close`; a context manager."""

    def __init__(self, address: str) -> None:
        self._sockets = Sockets()
        self._socket = self._sockets.connect(PLAN, address)
        self._stop = threading.Event()
        self.seen: list[tuple[float, int, dict[str, NodeView]]] = []
        self._thread = threading.Thread(target=self._run, name="fault-watch", daemon=True)
        self._thread.start()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()
        self._sockets.close()

    def noticed(self, node: str, after: float) -> float | None:
        """When a broadcast first said that the node is not alive, or has other executors than before `after`."""
        before = next((nodes.get(node) for at, _, nodes in reversed(self.seen) if at < after), None)
        executors = before.executors if before is not None else ()
        for at, _, nodes in self.seen:
            view = nodes.get(node)
            if at >= after and (view is None or view.state != "alive" or view.executors != executors):
                return at
        return None

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._socket.poll(POLL_MS):
                message = _decode(self._socket.recv_multipart()[1])
                nodes = {view.node: view for view in message.nodes}
                self.seen.append((time.monotonic(), message.term, nodes))
