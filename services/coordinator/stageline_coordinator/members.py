"""The table of nodes and gateways, and what each event about a peer does to it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from stageline.messages import ExecutorInfo, Hello, Pong, Refused
from stageline.plan import Crash, NodeView, StalledLink
from stageline.wire import Message

from .detector import PeerState
from .peers import FORGET_S, Gateway, Node, Peer, check_hello, speaks_for


class Members:
    """`known` are workers of an earlier run of the coordinator: gone until they say `Hello`."""

    def __init__(self, known: Iterable[Hello], now: float) -> None:
        self.gateways: dict[str, Gateway] = {}
        self.stalled: tuple[StalledLink, ...] = ()
        self._drained: frozenset[str] = frozenset()
        self.nodes = {hello.name: Node(hello, liveness="gone", gone_at=now) for hello in known}

    @property
    def everybody(self) -> list[Peer]:
        """Workers, then gateways, whether they are here or not."""
        return [*self.nodes.values(), *self.gateways.values()]

    def find(self, identity: str) -> Peer | None:
        """The peer that joined with that socket identity, unless it is gone."""
        role, _, rest = identity.partition(":")
        found = self._record(role, rest) or self._record(role, rest.rpartition("/")[0])
        return None if found is None or found.liveness == "gone" or found.address != identity else found

    def namesake(self, hello: Hello) -> Peer | None:
        """Whoever has the name now, of any incarnation, unless it is gone."""
        found = self._record(hello.role, hello.name)
        return None if found is None or found.liveness == "gone" else found

    def node(self, identity: str) -> Node | None:
        """The same for a worker."""
        found = self.find(identity)
        return found if isinstance(found, Node) else None

    def end(self, name: str) -> str:
        """The identity of the peer that headers call `name`: an executor, or a gateway. Empty if it is not here."""
        found = self.bearer(name)
        return found.identity if found is not None else ""

    def bearer(self, name: str) -> Peer | None:
        """That peer itself."""
        for node in self.nodes.values():
            if name in node.executors:
                return node
        gateway = self.gateways.get(name.rpartition("/")[0])
        return gateway if gateway is not None and speaks_for(gateway, name) else None

    def drain(self, names: Collection[str]) -> None:
        """Have these workers emptied, and no others."""
        self._drained = frozenset(names)
        for name, node in self.nodes.items():
            node.drained = name in self._drained

    def usable(self, now: float) -> list[Node]:
        """The nodes that a plan may rely on, by name."""
        return [self.nodes[name] for name in sorted(self.nodes) if self.nodes[name].usable(now)]

    def left_out(self, now: float) -> list[Node]:
        """Nodes that are here but failed lately, or are drained."""
        return [node for node in self.nodes.values() if node.present and (node.drained or now < node.excluded_until)]

    def retry(self, now: float) -> None:
        """Plans may use nodes again for models that they failed to load long enough ago."""
        for node in self.nodes.values():
            node.load_failures.retry(now)

    def views(self) -> tuple[NodeView, ...]:
        return tuple(self.nodes[name].view() for name in sorted(self.nodes))

    def join(self, identity: str, hello: Hello, now: float) -> Refused | None:
        """Admit a peer, or take in fresh news of one that is here."""
        known = self._record(hello.role, hello.name)
        refused = check_hello(hello, identity, known)
        if refused or hello.role == "admin":  # an administrator asks and goes: nothing is kept of it
            return refused
        fresh = known is None or known.liveness == "gone" or known.hello.incarnation != hello.incarnation
        if hello.role == "agent":
            node = self.nodes[hello.name] if not fresh else Node(hello)
            self.nodes[hello.name] = node
            node.drained = hello.name in self._drained
            node.executors = {one.executor: one for one in hello.node.executors} if hello.node else {}
            known = node
        elif fresh or known is None:
            known = self.gateways[hello.name] = Gateway(hello)
        known.hello, known.disconnected, known.address = hello, False, identity
        if known.liveness == "suspect":
            known.become("alive", now)
        return None

    def changed(self, peer: Peer, state: PeerState, disconnected: bool, now: float) -> None:
        """Apply the failure detector's verdict. Who was allowed to go and disconnects is gone at once."""
        if state is PeerState.ALIVE:
            peer.disconnected = False
            if peer.liveness == "suspect":
                peer.become("alive", now)
            return
        peer.disconnected = peer.disconnected or disconnected
        if state is PeerState.EVICTED or (disconnected and peer.farewell):
            peer.become("gone", now)
            if isinstance(peer, Node):
                peer.executors.clear()
        elif peer.liveness == "alive":
            peer.become("suspect", now)

    def vouches(self, identity: str, message: Message) -> bool:
        """Whether this shows that the peer we know lives: a namesake with the same identity may be talking."""
        if isinstance(message, Hello):
            return False
        peer = self.find(identity)
        return not isinstance(message, Pong) or (peer is not None and peer.hello.incarnation == message.incarnation)

    def pong(self, peer: Peer, message: Pong, now: float) -> None:
        if isinstance(peer, Gateway):
            peer.epoch, peer.oldest = message.epoch, message.oldest_in_flight
        elif isinstance(peer, Node):
            peer.report(message.progress, now)
            peer.keep_up(message.upkeep)

    def executor_up(self, node: Node, executor: ExecutorInfo) -> None:
        node.executors.pop(executor.executor, None)
        node.executors[executor.executor] = executor

    def executor_down(self, node: Node, executor: str, computing: tuple[int, ...]) -> None:
        node.executors.pop(executor, None)
        if computing:
            node.crash = Crash(executor=executor, computing=computing)

    def forget(self, now: float) -> list[str]:
        """Drop the records of peers that have been gone for long; returns the names of the workers among them."""
        old = [name for name, node in self.nodes.items() if node.liveness == "gone" and now - node.gone_at > FORGET_S]
        for name in old:
            del self.nodes[name]
        self.gateways = {
            name: peer
            for name, peer in self.gateways.items()
            if peer.liveness != "gone" or now - peer.gone_at < FORGET_S
        }
        return old

    def _record(self, role: str, name: str) -> Peer | None:
        if role == "agent":
            return self.nodes.get(name)
        return self.gateways.get(name) if role == "gateway" else None
