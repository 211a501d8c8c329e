"""The one table of the channels between services: socket types, and what may be said in each direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Union

import zmq

from stageline.messages.administration import (
    Done,
    ErrorReply,
    GetPlan,
    GetProblem,
    ListModels,
    ListNodes,
    MakeToken,
    ModelList,
    NextKeyIs,
    NodeList,
    PlanReply,
    ProblemReply,
    PutModel,
    RemoveModel,
    RemoveNode,
    RevokeKey,
    RotateCoordinator,
    RotateKey,
    SetNode,
    SetObjective,
    SetWishes,
    TokenMade,
)
from stageline.messages.bulk import BlobAck, BlobChunk, BlobGet, BlobPut, BlobQuery, BlobStatus, Probe, ProbeReply
from stageline.messages.local import (
    Backed,
    Beat,
    ExecutorHello,
    Load,
    Loaded,
    LoadFailed,
    Measure,
    Measured,
    Stop,
    Unload,
)
from stageline.messages.membership import (
    Admit,
    Admitted,
    Farewell,
    Hello,
    Join,
    Joined,
    KeyMade,
    KeyTaken,
    Leaving,
    MakeKey,
    NextKey,
    Ping,
    Pong,
    Reached,
    Refused,
    Rejoin,
    Welcome,
)
from stageline.messages.partner import Follow, Followed
from stageline.messages.parts import Role
from stageline.messages.planning import (
    ExecutorDown,
    ExecutorUp,
    Prepare,
    Prepared,
    PrepareFailed,
    Probed,
    ProbeRequest,
    Profiled,
    ProfileRequest,
    Retire,
)
from stageline.plan import Digest, Plan


def control_identity(role: Role, name: str, incarnation: str) -> str:
    """The identity of a DEALER on the control channel.

    It names the incarnation, so that a second process of the name is another peer to the ROUTER: it can be refused
    without taking the first one's place. Peers of before this, and administrators, have ``role:name``.
    """
    return f"{role}:{name}/{incarnation}"


@dataclass(frozen=True)
class Channel:
    """A kind of connection: socket types at its two ends, what may be said in each direction."""

    name: str
    bind_type: int
    connect_type: int
    to_binder: Any
    to_connector: Any
    heartbeats: bool = False


ToCoordinator = Union[
    Hello, Pong, Leaving, Prepared, PrepareFailed, ExecutorUp, ExecutorDown, Profiled, Probed,
    GetPlan, ListModels, ListNodes, GetProblem, PutModel, RemoveModel, RemoveNode, SetWishes, SetObjective, Follow,
    Admitted, MakeToken, RevokeKey, SetNode, RotateKey, KeyMade,
    RotateCoordinator,
]  # fmt: skip
FromCoordinator = Union[
    Welcome, Refused, Rejoin, Ping, Farewell, Prepare, Retire, ProfileRequest, ProbeRequest,
    PlanReply, ModelList, NodeList, ProblemReply, Done, ErrorReply, Followed, Admit, TokenMade, Reached,
    MakeKey, KeyTaken, NextKey, NextKeyIs,
]  # fmt: skip
ToBlobs = Union[BlobGet, BlobQuery, BlobPut]
FromBlobs = Union[BlobChunk, BlobStatus, BlobAck, ErrorReply]
ToAgent = Union[ExecutorHello, Loaded, LoadFailed, Backed, Measured, Beat, Admitted]
FromAgent = Union[Load, Unload, Measure, Stop, Admit]

CONTROL = Channel("control", zmq.ROUTER, zmq.DEALER, ToCoordinator, FromCoordinator, heartbeats=True)
PLAN = Channel("plan", zmq.PUB, zmq.SUB, None, Union[Plan, Digest])
BLOBS = Channel("blobs", zmq.ROUTER, zmq.DEALER, ToBlobs, FromBlobs)
LOCAL = Channel("local", zmq.ROUTER, zmq.DEALER, ToAgent, FromAgent)
JOIN = Channel("join", zmq.ROUTER, zmq.DEALER, Join, Union[Joined, Refused])
DATA = Channel("data", zmq.PULL, zmq.PUSH, None, None)
PROBE = Channel("probe", zmq.ROUTER, zmq.DEALER, Probe, ProbeReply)

CHANNELS = (CONTROL, PLAN, BLOBS, LOCAL, JOIN, DATA, PROBE)
MAX_JOIN_BYTES = 4096

TOPIC_PLAN = b"plan\x00"
TOPIC_DIGEST = b"digest\x00"
"""Topics end in NUL: a subscription is a prefix match, and no topic may be the prefix of another."""

BLOB_CHUNK_BYTES = 1 << 20
MAX_BALLAST_BYTES = 4 << 20
