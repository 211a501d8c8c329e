"""The gateway's link to the coordinator: hello, heartbeats, plans. Without a coordinator the last plan goes on."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stageline import __version__, reached
from stageline.absence import COMPLAINT, Absence
from stageline.addresses import reachable
from stageline.coordinators import ASK_AGAIN_S, NOT_LEADING, Coordinators
from stageline.errors import ConfigError, RemoteProtocolError
from stageline.logs import Logger
from stageline.messages import (
    CONTROL,
    PLAN,
    REACHED,
    ROTATES,
    Admit,
    Admitted,
    GetPlan,
    Hello,
    KeyMade,
    KeyTaken,
    MakeKey,
    NextKey,
    Passage,
    Ping,
    PlanReply,
    Pong,
    Reached,
    Refused,
    Rejoin,
    StageTime,
    Welcome,
    control_identity,
)
from stageline.monitors import refusal
from stageline.plan import Digest, Endpoint, Epoch, Plan
from stageline.rotation import Rotation
from stageline.sockets import Socket, Sockets
from stageline.wire import Decoder, encode
from stageline_gateway.readers import Reader

SILENCE_S = 1.0
"""Without a ping for so long, say hello again, to the next coordinator if there is one."""

REDIRECT_S = 0.05
"""Before a leader is greeted that a standby named: two may name each other."""

LOOK_S = 0.1
"""How often to look whether it is silent."""


@dataclass(frozen=True)
class Heartbeat:
    """What a pong says about this gateway."""

    epoch: Epoch
    oldest_in_flight: Epoch | None
    stage_times: tuple[StageTime, ...] = ()
    passages: tuple[Passage, ...] = ()


@dataclass(frozen=True)
class Addresses:
    """What the coordinator tells others about this gateway."""

    name: str
    client: str
    http: str
    probe: Endpoint | None
    data: Endpoint | None = None


class ControlLink:
    """Loop thread only. `on_plan` gets every plan and digest as it comes; `beat` is asked for each pong."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sockets: Sockets,
        coordinators: Coordinators,
        addresses: Addresses,
        *,
        on_plan: Callable[[Plan | Digest], None],
        beat: Callable[[], Heartbeat],
        log: Logger,
    ) -> None:
        self._loop = loop
        self._sockets, self._keyring = sockets, sockets.keyring
        self._addresses = addresses
        self._on_plan = on_plan
        self._beat = beat
        self._log = log
        self._coordinators = coordinators
        self._absence = Absence()
        self.incarnation = uuid.uuid4().hex
        self.refused = ""
        self._decode: Decoder[Any] = Decoder(CONTROL.to_connector)
        self._decode_plan: Decoder[Plan | Digest] = Decoder(PLAN.to_connector)
        self._plan_address = ""
        self._plan_socket: Socket | None = None
        self._plan_reader: Reader | None = None
        self._plan_shown: object = None
        self._rotation = Rotation(sockets.keyring)
        self._old: tuple[Reader, Socket] | None = None
        self._requests = 0
        self._heard = self._greeted = loop.time()
        self._ask_again_at: float | None = None
        self._moving: asyncio.TimerHandle | None = None
        self._connect()
        self._say_hello()
        self._watch = loop.call_later(LOOK_S, self._look)

    @property
    def connected(self) -> bool:
        """Whether the coordinator was heard lately."""
        return self._loop.time() - self._heard < 2 * SILENCE_S and bool(self._plan_address)

    def fetch_plan(self) -> None:
        """Ask for the current plan."""
        self._requests += 1
        self._send(GetPlan(self._requests))

    def poll(self) -> None:
        """Look at the sockets, whatever the descriptors said."""
        self._reader.drain()
        if self._plan_reader is not None:
            self._plan_reader.drain()

    def close(self) -> None:
        """Stop; the sockets are closed by `Sockets`."""
        self._watch.cancel()
        if self._moving is not None:
            self._moving.cancel()
        self._reader.close()
        if self._old is not None:
            self._old[0].close()
        if self._plan_reader is not None:
            self._plan_reader.close()

    def _connect(self) -> None:
        identity = control_identity("gateway", self._addresses.name, self.incarnation).encode()
        self._socket = self._sockets.connect(CONTROL, self._coordinators.current, identity=identity)
        self._reader = Reader(self._loop, self._socket, self._received, copy=True)

    def _renew(self) -> None:
        """Connect with the key that we show now; the connection of before goes when we are welcomed over this one.

        So the coordinator, for which the newer one of a name counts, sees no connection break.
        """
        self._drop_old()
        self._old = (self._reader, self._socket)
        self._connect()
        self._say_hello()

    def _drop_old(self) -> None:
        if self._old is not None:
            reader, socket = self._old
            self._old = None
            reader.close()
            self._sockets.release(socket)

    def _send(self, message: Hello | GetPlan | Pong | Admitted | KeyMade) -> None:
        self._socket.send(encode(message))
        self._loop.call_soon(self._reader.drain)

    def _say_hello(self) -> None:
        self._greeted = self._loop.time()
        self._ask_again_at = None
        if self._absence.greeted(self._greeted):
            self._log.warning(COMPLAINT, coordinator=self._coordinators.current)
        here = self._addresses
        self._send(
            Hello(
                role="gateway",
                name=here.name,
                incarnation=self.incarnation,
                version=__version__,
                pid=os.getpid(),
                http=here.http,
                client_address=here.client,
                probe=here.probe,
                term=self._coordinators.term,
                data_key=self._keyring.data.public if self._keyring is not None else b"",
                data=here.data,
                features=(REACHED, ROTATES),
            )
        )

    def _look(self) -> None:
        now = self._loop.time()
        for made in self._rotation.answers():
            self._send(made)
        if min(now - self._heard, now - self._greeted) >= SILENCE_S:
            self._coordinators.go_on()
            self._greet_anew()
        elif self._ask_again_at is not None and now >= self._ask_again_at:
            self._say_hello()
        self._watch = self._loop.call_later(LOOK_S, self._look)

    def _greet_anew(self) -> None:
        """Say hello to the current coordinator; if there are several, or keys, over a connection that is new, too.

        Who was refused for its key, or had another answer at the old address, does not try again by itself.
        """
        if self._coordinators.several or self._keyring is not None:
            self._why_refused()
            self._drop_old()
            self._reader.close()
            self._sockets.release(self._socket)
            self._connect()
        self._say_hello()

    def _why_refused(self) -> None:
        why = refusal(self._socket) if self._keyring is not None else ""
        self._rotation.refused(why)
        told = f"no connection to the coordinator at {self._coordinators.current}: {why}" if why else ""
        if told and told != self.refused:
            self.refused = told
            self._log.error(told)

    def _received(self, frames: list[bytes]) -> None:
        self._absence.heard()
        try:
            message = self._decode(frames[-1])
        except RemoteProtocolError as error:
            self._log.warning("unknown control message ignored", error=error.message)
            return
        if isinstance(message, Ping):
            self._heard = self._loop.time()
            beat = self._beat()
            self._send(
                Pong(
                    message.sequence,
                    message.sent_s,
                    self.incarnation,
                    epoch=beat.epoch,
                    oldest_in_flight=beat.oldest_in_flight,
                    stage_times=beat.stage_times,
                    passages=beat.passages,
                )
            )
        elif isinstance(message, Welcome):
            self._welcomed(message)
        elif isinstance(message, PlanReply):
            self._on_plan(message.plan)
        elif isinstance(message, Rejoin):
            self._say_hello()
        elif isinstance(message, Admit) and self._keyring is not None:
            self._keyring.admit(message)
            self._send(Admitted(version=message.version))
        elif isinstance(message, Reached):
            reached.tell(self._log, "gateway", message)
        elif isinstance(message, MakeKey):
            self._rotation.make()
        elif isinstance(message, NextKey):
            self._rotation.announced(message)
        elif isinstance(message, KeyTaken) and self._rotation.taken(message):
            self._log.info("shows a new key from now on", key=message.public.hex()[:16])
            self._loop.call_soon(self._renew)
        elif isinstance(message, Refused) and message.code == NOT_LEADING:
            self._stands_by(message)
        elif isinstance(message, Refused):
            self.refused = message.message
            self._log.error("the coordinator refuses this gateway", code=message.code, reason=message.message)

    def _stands_by(self, refused: Refused) -> None:
        self.refused = refused.message
        if self._coordinators.redirected(refused.leader):
            self._moving = self._loop.call_later(REDIRECT_S, self._greet_anew)  # not now: the socket is being read
        else:
            self._ask_again_at = self._loop.time() + ASK_AGAIN_S

    def _welcomed(self, welcome: Welcome) -> None:
        if not self._coordinators.welcomed(welcome.cluster, welcome.term):
            self._log.warning("a coordinator of the past is not listened to", term=welcome.term)
            self._ask_again_at = self._loop.time() + ASK_AGAIN_S
            return
        self._heard = self._loop.time()
        self._rotation.welcomed()
        self._loop.call_soon(self._drop_old)
        self.refused = ""
        self._log.info("joined", cluster=welcome.cluster, term=welcome.term)
        plan = reachable(welcome.plan, self._coordinators.current)
        if plan != self._plan_address or self._plan_shown != self._sockets.introduction:
            self._subscribe(plan)
        self.fetch_plan()

    def _subscribe(self, address: str) -> None:
        if self._plan_reader is not None and self._plan_socket is not None:
            self._plan_reader.close()
            self._sockets.release(self._plan_socket)
        try:
            self._plan_socket = self._sockets.connect(PLAN, address)
        except ConfigError as error:
            self._log.error("bad plan address", error=error.message)
            return
        self._plan_address, self._plan_shown = address, self._sockets.introduction
        self._plan_reader = Reader(self._loop, self._plan_socket, self._broadcast, copy=True)

    def _broadcast(self, frames: list[bytes]) -> None:
        try:
            message = self._decode_plan(frames[-1])
        except RemoteProtocolError as error:
            self._log.warning("unknown broadcast ignored", error=error.message)
            return
        self._on_plan(message)
