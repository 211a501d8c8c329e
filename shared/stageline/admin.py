"""The administrator's side of the coordinator: ask, register models, upload blobs. Blocking, one thread."""

from __future__ import annotations

import itertools
import os
import time
import uuid
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import zmq

from stageline.addresses import reachable
from stageline.blobs import BlobStore
from stageline.coordinators import ASK_AGAIN_S, NOT_LEADING, read_addresses
from stageline.errors import (
    ConnectionLostError,
    NoClusterError,
    RemoteProtocolError,
    StagelineError,
    StoreError,
    from_wire,
)
from stageline.keyfiles import read_keyring
from stageline.messages import (
    BLOB_CHUNK_BYTES,
    BLOBS,
    CONTROL,
    BlobAck,
    BlobChunk,
    BlobGet,
    BlobPut,
    BlobQuery,
    BlobStatus,
    Done,
    ErrorReply,
    FromBlobs,
    FromCoordinator,
    GetPlan,
    GetProblem,
    Hello,
    ListModels,
    ListNodes,
    MakeToken,
    ModelList,
    ModelRow,
    NextKey,
    NextKeyIs,
    NodeList,
    PlanReply,
    ProblemReply,
    PutModel,
    Refused,
    Rejoin,
    RemoveModel,
    RemoveNode,
    RevokeKey,
    RotateCoordinator,
    RotateKey,
    SetNode,
    SetObjective,
    SetWishes,
    TokenMade,
    Welcome,
)
from stageline.monitors import STRANGER, refusal
from stageline.nodewishes import Duty
from stageline.plan import Plan
from stageline.rotation import Rotation
from stageline.sockets import Socket, Sockets
from stageline.wire import Decoder, encode
from stageline.wishes import Wishes

UPLOAD_WINDOW = 8
"""Chunks on their way that the coordinator has not acknowledged."""

QUERY_BLOBS = 10_000
"""Blobs asked about in one message."""

UPLOAD_RETRIES = 3
LOOK_S = 0.2
R = TypeVar("R")
_control: Decoder[Any] = Decoder(FromCoordinator)
_blobs: Decoder[Any] = Decoder(FromBlobs)

Uploaded = Callable[[int, int], None]
"""Called with the bytes sent so far and the bytes to send in all."""


class AdminClient:
    """A connection to the coordinator that leads. Each call is answered or raises after `timeout_s` seconds of silence.

    `address` may be several, separated by commas: of a cluster's leader and who stands by.
    `keys`: the directory with an administrator's keys, where the cluster has keys.
    Raises `NoClusterError` when nobody answers there; what the coordinator refuses comes back as the error
    class that it names.
    """

    def __init__(self, address: str, *, timeout_s: float = 10.0, keys: Path | None = None) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._ids = itertools.count(1)
        self._name = f"cli-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._sockets = Sockets(keyring=read_keyring(keys))
        self._rotation = Rotation(self._sockets.keyring)
        self._blob_socket: Socket | None = None
        try:
            self._addresses = read_addresses(address)
            self._socket, self.welcome = self._greet()
        except BaseException:
            self._sockets.close()
            raise

    def __enter__(self) -> AdminClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._sockets.close()
        self._rotation.settle()

    # --- control --------------------------------------------------------------------------------------------

    def plan(self) -> Plan:
        """The current plan."""
        return self._ask(GetPlan(id=next(self._ids)), PlanReply).plan

    def models(self) -> tuple[ModelRow, ...]:
        """All registered models."""
        return self._ask(ListModels(id=next(self._ids)), ModelList).models

    def nodes(self) -> NodeList:
        """All nodes and gateways."""
        return self._ask(ListNodes(id=next(self._ids)), NodeList)

    def problem(self, models: Sequence[str] = ()) -> str:
        """What the planner is asked now, for these models (none: all), as JSON."""
        return self._ask(GetProblem(id=next(self._ids), models=tuple(models)), ProblemReply).problem

    def put_model(self, manifest: str) -> None:
        """Register the model of that manifest blob, uploaded before."""
        self._ask(PutModel(id=next(self._ids), manifest=manifest), Done)

    def remove_model(self, name: str) -> None:
        """Forget a model."""
        self._ask(RemoveModel(id=next(self._ids), name=name), Done)

    def remove_node(self, name: str) -> None:
        """Forget a worker that is gone. Raises `ClusterError` for any other."""
        self._ask(RemoveNode(id=next(self._ids), name=name), Done)

    def set_node(
        self, name: str, duty: Duty | None = None, labels: Mapping[str, str] | None = None, unset: Sequence[str] = ()
    ) -> None:
        """Change what plans may do with a worker, and its labels. Raises `ConfigError` or `ClusterError`."""
        said = dict(labels or {})
        self._ask(SetNode(id=next(self._ids), name=name, duty=duty, labels=said, unset=tuple(unset)), Done)

    def set_wishes(self, model: str, wishes: Wishes, unset: Sequence[str] = ()) -> None:
        """Change what a model's plans heed. Raises `ConfigError` for values that cannot be."""
        self._ask(SetWishes(id=next(self._ids), model=model, wishes=wishes, unset=tuple(unset)), Done)

    def set_objective(self, objective: str) -> None:
        """Change what plans are best in: throughput, latency or weighted."""
        self._ask(SetObjective(id=next(self._ids), objective=objective), Done)

    def make_token(self, uses: int = 1, expires_s: float = 86400.0) -> str:
        """A token with which so many workers and gateways may join (0: any number). `ClusterError` without keys."""
        return self._ask(MakeToken(id=next(self._ids), uses=uses, expires_s=expires_s), TokenMade).token

    def rotate_key(self, name: str, overlap_s: float) -> None:
        """Have a worker or gateway change its key; the old one is let in for so many seconds more. `ClusterError`."""
        self._ask(RotateKey(id=next(self._ids), name=name, overlap_s=overlap_s), Done)

    def rotate_coordinator(self, overlap_s: float) -> bytes:
        """Have the coordinator change its own key in so many seconds. Returns the public half of the new one."""
        public = self._ask(RotateCoordinator(id=next(self._ids), overlap_s=overlap_s), NextKeyIs).public
        self._rotation.announced(NextKey(public=public))
        return public

    def revoke_key(self, name: str) -> None:
        """Let a worker or gateway in no more. Raises `ClusterError` if it is not let in."""
        self._ask(RevokeKey(id=next(self._ids), name=name), Done)

    # --- blobs ----------------------------------------------------------------------------------------------

    def missing(self, shas: Iterable[str]) -> dict[str, int]:
        """Those blobs that the coordinator lacks, and at which byte to go on with each."""
        wanted, found = sorted(set(shas)), {}
        for start in range(0, len(wanted), QUERY_BLOBS):
            query = BlobQuery(id=next(self._ids), sha256=tuple(wanted[start : start + QUERY_BLOBS]))
            self._send_blob(query)
            reply, _ = self._receive_blob({query.id}, BlobStatus)
            found.update(reply.missing)
        return found

    def upload(self, store: BlobStore, shas: Iterable[str], progress: Uploaded = lambda sent, total: None) -> int:
        """Send what the coordinator lacks; goes on where a broken upload ended. Returns the bytes sent.

        When the connection breaks, or another coordinator leads from now on, it goes on by itself, and gives up after
        `UPLOAD_RETRIES` tries in a row that got no further than any before. A coordinator without room lets go of what
        it was sent: only what it has at the end counts.
        """
        wanted, sent, tries, least = tuple(shas), 0, 0, -1
        lost: StagelineError = StoreError("the coordinator let go of what it was sent: look at its disk")
        while True:
            try:
                missing = self.missing(wanted)
                sizes = {sha: store.path(sha).stat().st_size for sha in missing}
                left = sum(sizes[sha] - offset for sha, offset in missing.items())
                least, tries = (left, 0) if least < 0 or left < least else (least, tries)
                total = sent + left
                progress(sent, total)
                if not missing:
                    return sent
                for sha, offset in missing.items():
                    for count in self._upload_one(store, sha, offset, sizes[sha]):
                        sent += count
                        progress(sent, total)
                problem: StagelineError = lost
            except StoreError as error:
                problem = lost = error  # a later try may find only what became of it
            except ConnectionLostError as error:
                problem = error
            tries += 1
            if tries > UPLOAD_RETRIES:
                raise problem
            if isinstance(problem, ConnectionLostError):
                self._meet_again()

    def download(self, sha: str) -> bytes:
        """A blob of the coordinator's; for small ones such as manifests."""
        data = b""
        while True:
            request = BlobGet(id=next(self._ids), sha256=sha, offset=len(data), length=BLOB_CHUNK_BYTES)
            self._send_blob(request)
            reply, chunk = self._receive_blob({request.id}, BlobChunk)
            data += chunk
            if len(data) >= reply.total or not chunk:
                return data

    def _upload_one(self, store: BlobStore, sha: str, offset: int, total: int) -> Iterable[int]:
        """Yields the bytes of each chunk as it is acknowledged."""
        waiting: dict[int, int] = {}
        with store.path(sha).open("rb") as file:
            file.seek(offset)
            ended = False
            while not ended or waiting:
                while not ended and len(waiting) < UPLOAD_WINDOW:
                    chunk = file.read(BLOB_CHUNK_BYTES)
                    put = BlobPut(id=next(self._ids), sha256=sha, offset=offset, total=total)
                    self._send_blob(put, chunk)
                    waiting[put.id] = len(chunk)
                    offset += len(chunk)
                    ended = offset >= total or not chunk
                reply, _ = self._receive_blob(waiting, BlobAck)
                yield waiting.pop(reply.id)

    # --- sockets --------------------------------------------------------------------------------------------

    def _greet(self) -> tuple[Socket, Welcome]:
        """Ask all of them at once, and again and again, for the one that leads."""
        hello = encode(Hello(role="admin", name=self._name, incarnation=uuid.uuid4().hex, pid=os.getpid()))
        refused, deadline = "", time.monotonic() + self._timeout_s
        asked = self._knock(hello)
        while (left_s := deadline - time.monotonic()) > 0:
            ready = zmq.select(asked, [], [], min(left_s, LOOK_S))[0]
            if not ready and self._mistaken(asked):
                asked = self._knock(hello)
            for socket in asked:
                reply = _control(socket.recv()) if socket in ready else None
                if isinstance(reply, Welcome):
                    self._rotation.welcomed()
                    self._leader = self._addresses[asked.index(socket)]
                    for other in asked:
                        if other is not socket:
                            self._sockets.release(other)
                    return socket, reply
                if isinstance(reply, Refused) and reply.code != NOT_LEADING:
                    raise from_wire(reply.code, reply.message)
                if isinstance(reply, Refused):
                    refused = f"nobody leads: {reply.message}"
                    time.sleep(ASK_AGAIN_S)
                    socket.send(hello)
        raise NoClusterError(refused or self._refusal(asked) or self._silent())

    def _knock(self, hello: bytes) -> list[Socket]:
        identity = f"admin:{self._name}".encode()
        asked = [self._sockets.connect(CONTROL, address, identity=identity) for address in self._addresses]
        for socket in asked:
            socket.send(hello)
        return asked

    def _mistaken(self, asked: Sequence[Socket]) -> bool:
        """Whether the coordinator has its next key; then that is expected from now on, and these are closed."""
        keyring = self._sockets.keyring
        if keyring is None or not keyring.successor or STRANGER not in [refusal(socket) for socket in asked]:
            return False
        self._rotation.refused(STRANGER)
        for socket in asked:
            self._sockets.release(socket)
        return True

    def _refusal(self, asked: Sequence[Socket]) -> str:
        if self._sockets.keyring is None:
            return ""
        found = {address: refusal(socket) for address, socket in zip(self._addresses, asked, strict=True)}
        return "; ".join(f"no connection to the coordinator at {one}: {why}" for one, why in found.items() if why)

    def _ask(self, request: Any, kind: type[R]) -> R:
        self._socket.send(encode(request))

        def wanted(reply: Any) -> bool:
            stands_by = isinstance(reply, Refused) and reply.code == NOT_LEADING
            if isinstance(reply, Rejoin) or stands_by:  # it restarted, or leads no more: introduce ourselves, ask again
                self._meet_again()
                self._socket.send(encode(request))
            return bool(getattr(reply, "id", None) == request.id)

        return _of_kind(self._receive(wanted), kind)

    def _meet_again(self) -> None:
        """New connections, to whoever leads now."""
        for old in filter(None, (self._socket, self._blob_socket)):
            self._sockets.release(old)
        self._blob_socket = None
        self._socket, self.welcome = self._greet()

    def _receive(self, wanted: Callable[[Any], bool]) -> Any:
        deadline = time.monotonic() + self._timeout_s
        while self._socket.poll(max(0, int(1000 * (deadline - time.monotonic()))), zmq.POLLIN):
            reply = _control(self._socket.recv())
            deadline = time.monotonic() + self._timeout_s
            if wanted(reply):
                return reply
        raise NoClusterError(self._silent())

    def _silent(self) -> str:
        return f"no coordinator answers at {self._address} within {self._timeout_s:g} s: check that it runs there"

    def _send_blob(self, request: Any, chunk: bytes | None = None) -> None:
        if self._blob_socket is None:
            self._blob_socket = self._sockets.connect(BLOBS, reachable(self.welcome.blobs, self._leader))
        frames = [encode(request)] if chunk is None else [encode(request), chunk]
        if not self._blob_socket.poll(int(1000 * self._timeout_s), zmq.POLLOUT):
            raise ConnectionLostError(f"the coordinator does not take blobs at {self.welcome.blobs}: try again")
        self._blob_socket.send_multipart(frames)

    def _receive_blob(self, ids: Container[int], kind: type[R]) -> tuple[R, bytes]:
        if self._blob_socket is None:
            raise ConnectionLostError("nothing was asked yet")
        deadline = time.monotonic() + self._timeout_s
        while self._blob_socket.poll(max(0, int(1000 * (deadline - time.monotonic()))), zmq.POLLIN):
            frames = self._blob_socket.recv_multipart()
            reply = _blobs(frames[0])
            if reply.id in ids:
                return _of_kind(reply, kind), b"".join(frames[1:])
        self._sockets.release(self._blob_socket)
        self._blob_socket = None
        raise ConnectionLostError(f"the coordinator's blob channel was silent for {self._timeout_s:g} s: try again")


def _of_kind(reply: Any, kind: type[R]) -> R:
    if isinstance(reply, ErrorReply):
        raise from_wire(reply.code, reply.message)
    if not isinstance(reply, kind):
        raise RemoteProtocolError(f"the coordinator answered {type(reply).__name__}, expected {kind.__name__}")
    return reply
