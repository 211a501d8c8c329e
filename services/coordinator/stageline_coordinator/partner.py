"""The other coordinator: heartbeats, what it takes over of ours and we of its, and who waits until it has something.

Each of the two asks the other (`Follow`, a DEALER to the other's control ROUTER) and is answered (`Followed`); what is
new is sent without being asked. Both take over from each other whoever leads, so that a change made by one that led
alone is lost by nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Union

import zmq

from stageline import logs
from stageline.addresses import reachable
from stageline.coordinators import NO_TERM_FROM
from stageline.errors import ConfigError, RemoteProtocolError
from stageline.messages import CONTROL, Follow, Followed, Ping, StandbyRow, Standing, StoreRow
from stageline.sockets import Socket, Sockets
from stageline.wire import Decoder, Message, encode

from .control import ControlSocket
from .copier import Copier
from .detector import DetectorConfig, FailureDetector, PeerState
from .following import Following
from .store import Store

NAME = "partner"
KEEP_WAITING_S = 1.0
_decode: Decoder[object] = Decoder(CONTROL.to_connector)


@dataclass(frozen=True)
class Heard:
    """The partner said how it stands."""

    standing: Standing


@dataclass(frozen=True)
class Renamed:
    """It had our id, and we had taken no term: this is our id now."""

    coordinator: int


@dataclass(frozen=True)
class Silent:
    """It is not heard any more."""


@dataclass(frozen=True)
class Merged:
    """These rows came from it, and are on our disk."""

    rows: list[StoreRow]


@dataclass(frozen=True)
class Complete:
    """We have everything that it has."""


News = Union[Heard, Renamed, Silent, Merged, Complete]


@dataclass(frozen=True)
class _Waiting:
    peer: str
    reply: Message
    change: int
    told_at: float


class Partner:
    """At most one other coordinator. `standing` says how we stand; `address` is where it is, empty if there is none."""

    def __init__(
        self,
        store: Store,
        sockets: Sockets,
        control: ControlSocket,
        copier: Copier,
        detector: DetectorConfig,
        standing: Callable[[], Standing],
    ) -> None:
        self._store, self._sockets, self._control, self._copier = store, sockets, control, copier
        self._log = logs.get(service="coordinator", part="partner")
        self._standing = standing
        self._config = detector
        self._detector = FailureDetector(detector)
        self._following = Following(store, copier)
        self._link: Socket | None = None
        self._next = 0.0
        self._id, self._peer, self._sent, self._confirmed = 0, "", 0, 0
        self.address, self.leader = "", ""
        self.in_step = False
        self._waiting: list[_Waiting] = []
        self._refused = ""

    # --- what is known of it --------------------------------------------------------------------------------

    @property
    def socket(self) -> Socket | None:
        """To wait on."""
        return self._link

    @property
    def state(self) -> PeerState | None:
        """None: there is no partner."""
        return self._detector.state(NAME)

    @property
    def behind(self) -> int:
        """Changes of ours that it lacks."""
        return max(0, self._store.journal.last - self._confirmed)

    @property
    def copying(self) -> int:
        """Models of its whose blobs are being copied."""
        return self._following.waiting

    @property
    def wanted(self) -> tuple[str, ...]:
        """The manifests of those."""
        return self._following.wanted

    def row(self) -> StandbyRow | None:
        """For listings."""
        if not self.address or self.state is None:
            return None
        state = {PeerState.ALIVE: "alive", PeerState.SUSPECT: "suspect", PeerState.EVICTED: "gone"}[self.state]
        return StandbyRow(address=self.address, state=state, behind=self.behind)

    # --- the link -------------------------------------------------------------------------------------------

    def connect(self, address: str, now: float, patience_s: float = 0.0) -> None:
        """Follow the coordinator at `address`; its silence is judged from now on, or so many seconds later."""
        if self._link is not None:
            self._sockets.release(self._link)
        identity = f"coordinator:{self._store.remembered().coordinator:05x}"
        self._link = None
        self._link = self._sockets.connect(CONTROL, address, identity=identity.encode())
        self.address = address
        self._detector.add(NAME, now + patience_s)
        self._next = now

    def tick(self, now: float) -> Iterator[News]:
        """Heartbeats, verdicts, and what is overdue."""
        self._following.tick(now)
        if now >= self._next:
            self._ask(now)
        for change in self._detector.tick(now):
            self._log.info("partner changed", state=change.new.value, silence_s=round(change.silence_s, 3))
            self._alone()
            if change.new is PeerState.EVICTED:
                yield Silent()
        self._soothe(now)

    def lost(self, now: float) -> None:
        """A connection from it broke."""
        if self._detector.disconnected(NAME, now) is not None:
            self._log.info("partner disconnected")
            self._alone()

    def received(self, now: float) -> Iterator[News]:
        """What came over the link."""
        while self._link is not None:
            try:
                message = _decode(self._link.recv(zmq.NOBLOCK))
            except zmq.Again:
                return
            except RemoteProtocolError as error:
                self._log.warning("message dropped", reason=error.message[:200])
                continue
            if isinstance(message, Followed):
                yield from (known := self._admit(message.standing, now))
                if Heard(message.standing) in known:
                    yield from self._followed(message, now)

    def follow(self, peer: str, message: Follow, now: float) -> Iterator[News]:
        """It asks, over our control socket."""
        standing = message.standing
        sound = 0 <= message.since < NO_TERM_FROM and 0 <= message.applied < NO_TERM_FROM
        known = self._admit(standing, now) if sound else ()
        if Heard(standing) not in known:
            yield from known
            return
        if standing.address != self.address and self._peer != peer:
            try:
                self.connect(standing.address, now)
            except ConfigError as error:
                self._log.error("the other coordinator cannot be reached", reason=error.message)
                return
            self._store.save_partner(standing.address)
        self._peer = peer
        yield from known
        self._sent, self._confirmed = message.since, message.applied
        self._send_rows()
        if not self.in_step and message.applied >= self._store.journal.last:
            self.in_step = True
            self._log.info("the standby is in step", changes=message.applied)
        self._release(message.applied)

    def push(self) -> None:
        """Send what is new, if the partner is there to take it."""
        if self._peer and self.state is PeerState.ALIVE and self._store.journal.last > self._sent:
            self._send_rows()

    def uploaded(self, blobs: tuple[str, ...]) -> None:
        """Tell it which blobs have come."""
        if self._peer and self.state is PeerState.ALIVE:
            self._control.send(self._peer, Followed(standing=self._standing(), after=-1, uploaded=blobs))

    def when_safe(self, peer: str, reply: Message, now: float) -> None:
        """Send `reply` to `peer` once the partner has all that we have; at once if it is not in step."""
        if self.in_step:
            self._waiting.append(_Waiting(peer, reply, self._store.journal.last, now))
            self.push()
        else:
            self._control.send(peer, reply)

    def copied(self, now: float) -> Iterator[News]:
        """What the copier has done."""
        for manifest, complete in self._copier.done():
            yield from self._took(self._following.copied(manifest, complete, now), now)

    # --- helpers --------------------------------------------------------------------------------------------

    def _admit(self, standing: Standing, now: float) -> tuple[News, ...]:
        """That it was heard, if it is one of our cluster; a fresh directory of ours joins its cluster."""
        own, problem = self._standing(), ""
        renamed: tuple[News, ...] = ()
        if standing.address == own.address:
            problem = "it is this one itself: name another with --standby-of"
        elif not all(0 <= one < NO_TERM_FROM for one in (standing.coordinator, standing.term, standing.taken)):
            problem = "its numbers are out of range"
        elif standing.coordinator != self._id and self.state is PeerState.ALIVE and self._id:
            problem = "there is another one already: two can be coordinators of a cluster"
        elif standing.schema != own.schema:
            problem = f"its store has schema {standing.schema}, ours {own.schema}: upgrade the older of the two"
        elif own.cluster and standing.cluster and own.cluster != standing.cluster:
            problem = (
                f"it belongs to cluster {standing.cluster}, this one to {own.cluster}: use an empty data directory"
            )
        elif standing.coordinator == own.coordinator and not own.taken:
            renamed = (Renamed(self._store.change_id()),)
            problem = "it has the same id: taking another"
        if problem:
            if problem != self._refused:
                self._log.error("the other coordinator is not followed", address=standing.address, reason=problem)
            self._refused = problem
            return renamed
        self._id = standing.coordinator
        if standing.cluster and not own.cluster:
            self._store.join(standing.cluster)
        if self.state in (None, PeerState.EVICTED):
            self._detector.add(NAME, now)
        self._detector.heard(NAME, now)
        self._following.whom(standing.coordinator)
        self._copier.address = reachable(standing.blobs, standing.address)
        self.leader = standing.address if standing.leads else ""
        return (Heard(standing),)

    def _followed(self, message: Followed, now: float) -> Iterator[News]:
        for blob in message.uploaded:
            self._copier.prefetch(blob)
        before = self._following.since
        yield from self._took(self._following.received(message), now)
        if self._following.since != before:
            self._ask(now)
        whole = message.after >= 0 and self._following.since == message.last
        if whole and not self._following.waiting:
            yield Complete()

    def _took(self, rows: list[StoreRow], now: float) -> Iterator[News]:
        if rows:
            yield Merged(rows)
            self._ask(now)

    def _ask(self, now: float) -> None:
        self._next = now + self._config.ping_s
        if self._link is None:
            return
        following = self._following
        message = Follow(standing=self._standing(), since=following.since, applied=following.applied)
        try:
            self._link.send(encode(message), zmq.NOBLOCK)
        except zmq.Again:
            self._log.debug("not sent", reason="nobody reads")

    def _send_rows(self) -> None:
        rows, upto = self._store.journal.since(self._sent)
        last = self._store.journal.last
        standing = self._standing()
        self._control.send(self._peer, Followed(standing=standing, after=self._sent, upto=upto, last=last, rows=rows))
        self._sent = upto

    def _alone(self) -> None:
        self.leader = ""  # perhaps it is dead: who comes is better kept here
        if self.in_step:
            self._log.warning("changes are acknowledged without the standby from now on")
        self.in_step = False
        self._release(self._store.journal.last)

    def _release(self, change: int) -> None:
        ready = [one for one in self._waiting if one.change <= change]
        self._waiting = [one for one in self._waiting if one.change > change]
        for one in ready:
            self._control.send(one.peer, one.reply)

    def _soothe(self, now: float) -> None:
        """Tell who waits that we are still here."""
        for i, one in enumerate(self._waiting):
            if now >= one.told_at + KEEP_WAITING_S:
                self._waiting[i] = _Waiting(one.peer, one.reply, one.change, now)
                self._control.send(one.peer, Ping(sequence=0, sent_s=now))
