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


class Broadcasts:
    """What was said when: (seconds, term, workers by name), and of links that let nothing through (seconds, the end,
    term and number of the finding). Pure."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, int, dict[str, NodeView]]] = []
        self.stalls: list[tuple[float, str, tuple[int, int]]] = []

    def note(self, message: Plan | Digest, now: float) -> None:
        """A broadcast came."""
        if isinstance(message, Digest):
            self.stalls += [(now, link.target, (message.term, link.number)) for link in message.stalled]
        self.seen.append((now, message.term, {view.node: view for view in message.nodes}))

    def noticed(self, node: str, after: float) -> float | None:
        """When a broadcast first said that the node is not alive, or has other executors than before `after`.

        None, too, where nothing was said of it before.
        """
        before = next((nodes.get(node) for at, _, nodes in reversed(self.seen) if at < after), None)
        if before is None:
            return None
        for at, _, nodes in self.seen:
            view = nodes.get(node)
            if at >= after and (view is None or view.state != "alive" or view.executors != before.executors):
                return at
        return None

    def localised(self, node: str, after: float) -> float | None:
        """When a broadcast first said that a link to the node (empty: the gateway) lets nothing through.

        What was found before `after` does not count, though it may be repeated for long.
        """
        views = self.seen[-1][2] if self.seen else {}
        here = views[node].executors if node in views else ()
        known = {number for at, _, number in self.stalls if at < after}
        for at, end, number in self.stalls:
            if at >= after and number not in known and (end in here or (not node and "/" in end)):
                return at
        return None


class Watch(Broadcasts):
    """Listens from its making to `close`; a context manager."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self._sockets = Sockets()
        self._socket = self._sockets.connect(PLAN, address)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fault-watch", daemon=True)
        self._thread.start()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()
        self._sockets.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._socket.poll(POLL_MS):
                self.note(_decode(self._socket.recv_multipart()[1]), time.monotonic())
