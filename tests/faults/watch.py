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
        self.stalls: list[tuple[float, str]] = []
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

    def localised(self, node: str, after: float) -> float | None:
        """When a broadcast first said that a link to the node (empty: the gateway) lets nothing through."""
        views = self.seen[-1][2] if self.seen else {}
        here = views[node].executors if node in views else ()
        return next((at for at, end in self.stalls if at >= after and (end in here or (not node and "/" in end))), None)

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._socket.poll(POLL_MS):
                message = _decode(self._socket.recv_multipart()[1])
                if isinstance(message, Digest):
                    self.stalls += [(time.monotonic(), link.target) for link in message.stalled]
                nodes = {view.node: view for view in message.nodes}
                self.seen.append((time.monotonic(), message.term, nodes))
