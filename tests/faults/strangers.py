"""Strangers at the door: malformed bytes on every listening socket, and peers that claim a name that is taken."""

from __future__ import annotations

import contextlib
import socket
import struct
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ports import free_port

from stageline.data import DATA_VERSION, Activation, Hop, Tensor, encode_frames
from stageline.messages import CONTROL, Hello, Pong, control_identity
from stageline.plan import StageKey
from stageline.protocol import ClientHello, Infer, TensorSpec, encode_frame
from stageline.sockets import Sockets
from stageline.wire import encode

from .events import Target, victim_node
from .load import wait_until
from .model import NAME, WIDTH
from .rig import Rig
from .service import Service

LISTEN = "0A"
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
"""ZMTP 3.0, mechanism NULL."""

DROPPED = ("malformed", "dropped", "ignored", "refused", "protocol")
ROUNDS = 2
REPLY_S = 0.02


def listening(pids: Sequence[int]) -> list[int]:
    """Every TCP port that one of the processes listens on."""
    table = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ports = {fields[9]: int(fields[1].rsplit(":", 1)[1], 16) for fields in table if fields[3] == LISTEN}
    found = set()
    for pid in pids:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                inode = str(entry.readlink()).removeprefix("socket:[").removesuffix("]")
                found.add(ports.get(inode, 0))
    return sorted(found - {0})


def ready(kind: bytes) -> bytes:
    """The READY command of a ZMTP socket of that type."""
    body = b"\x05READY\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind
    return bytes([4, len(body)]) + body


def frames(*parts: bytes) -> bytes:
    """A ZMTP message."""
    flags = [3] * (len(parts) - 1) + [2]
    pairs = zip(flags, parts, strict=True)
    return b"".join(bytes([flag]) + struct.pack(">Q", len(part)) + part for flag, part in pairs)


def well_formed() -> list[bytes]:
    """Streams that are right in form, for each of our protocols; what they say is nobody's."""
    tensor = bytes(4 * WIDTH)
    hop = Hop(StageKey(manifest="0" * 64, start=0, end=1), "tcp://127.0.0.1:9", "nobody", "nobody")
    header = Activation(
        DATA_VERSION,
        "nobody/0",
        1,
        (1,),
        (1,),
        1,
        (1, 1),
        (hop,),
        0,
        "tcp://127.0.0.1:9",
        (Tensor("float32", (1, WIDTH)),),
    )
    activation = frames(*(bytes(frame) for frame in encode_frames(header, [tensor])))
    hello = frames(encode(Hello(role="agent", name="nobody", incarnation="0")))
    infer = Infer(id=1, model=NAME, inputs=(TensorSpec("x", "float32", (1, WIDTH)),))
    client = [*encode_frame(ClientHello(1, "stranger")), *encode_frame(infer, [tensor])]
    return [
        GREETING + ready(b"PUSH") + activation,
        GREETING + ready(b"DEALER") + hello,
        GREETING + ready(b"SUB") + frames(b"\x01plan"),
        b"".join(bytes(piece) for piece in client),
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    ]


def malformed(rig: Rig) -> Iterator[bytes]:
    """Each of those truncated, with a flipped bit, and announcing more than anybody may send; and noise."""
    choose = rig.random
    for stream in well_formed():
        yield stream[: choose.randrange(1, len(stream))]
        bit = choose.randrange(8 * len(stream))
        flipped = bytearray(stream)
        flipped[bit // 8] ^= 1 << bit % 8
        yield bytes(flipped)
    for kind in (b"PUSH", b"DEALER", b"SUB"):
        yield GREETING + ready(kind) + b"\x02" + struct.pack(">Q", 1 << 62) + bytes(64)
        yield GREETING + ready(kind) + frames(choose.randbytes(200), choose.randbytes(50))
    yield struct.pack(">II", 1 << 31, 1 << 31)
    yield choose.randbytes(300)


@dataclass(frozen=True)
class Strangers:
    """Malformed streams on every socket that the cluster listens on."""

    seconds: float = 0.0
    kind: str = "malformed frames"

    def aim(self, rig: Rig) -> Target:
        ports = listening([pid for service in rig.services.values() for pid in service.pids()])
        return Target(f"{len(ports)} listening sockets", "", ports=ports, before={"dropped": _dropped(rig)})

    def decoy(self, rig: Rig) -> Target:
        return Target("a port where nobody listens", "nobody", ports=[free_port()])

    def strike(self, rig: Rig, target: Target) -> None:
        for port in [*target.ports] * ROUNDS:
            for stream in malformed(rig):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5.0) as stranger:
                    stranger.settimeout(REPLY_S)
                    stranger.sendall(stream)
                    target.before["sent"] = target.before.get("sent", 0) + 1
                    stranger.recv(4096)

    def proof(self, rig: Rig, target: Target) -> str:
        sent, dropped = target.before.get("sent", 0), _dropped(rig) - target.before["dropped"]
        return f"{sent} streams to {target.name}; {dropped} lines of log say so" if sent and dropped else ""

    def relent(self, rig: Rig, target: Target) -> None:
        """The strangers have gone."""


def _dropped(rig: Rig) -> int:
    """Lines of log that speak of malformed messages."""
    lines = (line for service in rig.services.values() for line in service.log.read_text(errors="replace").splitlines())
    return sum(any(word in line for word in DROPPED) for line in lines)


@dataclass(frozen=True)
class Namesake:
    """A second worker, or gateway, comes under the victim's name, and is there for a while."""

    role: Literal["stage", "gateway"] = "stage"
    seconds: float = 0.0
    kind: str = "duplicate name"

    def aim(self, rig: Rig) -> Target:
        node = victim_node(rig) if self.role == "stage" else ""
        return Target(f"the name {node or 'gateway'}", node, notes=[rig.coordinator.address])

    def decoy(self, rig: Rig) -> Target:
        return Target("a name in another cluster", "nobody", notes=[f"tcp://127.0.0.1:{free_port()}"])

    def strike(self, rig: Rig, target: Target) -> None:
        folder = rig.folder / f"namesake-{uuid.uuid4().hex[:6]}"
        folder.mkdir()
        name = target.node or "gateway"
        settings: dict[str, object] = {"coordinator": target.notes[0], "name": name}
        settings |= {"cache_dir": folder / "cache"} if self.role == "stage" else {"port": 0}
        second = Service(name, self.role, folder, settings)
        second.start()
        try:
            patience = 3.0 if target.node == "nobody" else 30.0
            wait_until("the second one is refused, more than once", lambda: len(_refusals(second)) > 1, patience)
            target.notes += _refusals(second)[1:]
        finally:
            second.kill()

    def proof(self, rig: Rig, target: Target) -> str:
        told = target.notes[-1] if target.notes[1:] else ""
        return f"the second one was told: {told}; the first is known" if told and self._first_is_known(rig) else ""

    def _first_is_known(self, rig: Rig) -> bool:
        """Whether the coordinator still lists the first one's process as alive."""
        with rig.admin() as admin:
            listed = admin.nodes()
        peers = [(row.pid, row.state) for row in (*listed.gateways, *listed.nodes)]
        victim = rig.gateway if self.role == "gateway" else rig.services[victim_node(rig)]
        return (victim.pid, "alive") in peers

    def relent(self, rig: Rig, target: Target) -> None:
        """It has gone."""


def _refusals(service: Service) -> list[str]:
    """What its log says about refusals."""
    lines = service.log.read_text(errors="replace").splitlines() if service.log.exists() else []
    return [line for line in lines if "duplicate" in line]


@dataclass(frozen=True)
class Impostor:
    """Somebody says under the victim's identity what an earlier incarnation of it would say."""

    seconds: float = 0.0
    kind: str = "old incarnation"

    def aim(self, rig: Rig) -> Target:
        node = victim_node(rig)
        return Target(f"the identity of {node}", node, notes=[rig.coordinator.address])

    def decoy(self, rig: Rig) -> Target:
        return Target("an identity that nobody has", "nobody", notes=[f"tcp://127.0.0.1:{free_port()}"])

    def strike(self, rig: Rig, target: Target) -> None:
        sockets = Sockets()
        try:
            identity = control_identity("agent", target.node, "old")
            old = sockets.connect(CONTROL, target.notes[0], identity=identity.encode())
            for sequence in range(5):
                old.send(encode(Pong(sequence=sequence, sent_s=0.0, incarnation="old")))
            row = rig.nodes().get(target.node)
            hello = Hello(role="agent", name=target.node, incarnation="old", pid=row.pid if row else 0)
            old.send(encode(hello))
            while old.poll(500):
                target.notes.append(old.recv().decode(errors="replace"))
        finally:
            sockets.close()

    def proof(self, rig: Rig, target: Target) -> str:
        told = [note for note in target.notes[1:] if "Refused" in note or "Rejoin" in note]
        return "the coordinator refused what the old incarnation said" if told else ""

    def relent(self, rig: Rig, target: Target) -> None:
        """It has gone."""
