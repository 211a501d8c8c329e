"""What goes into the cluster state machine, and what it tells its shell to do. Plain frozen values, no I/O.

A peer is named by the identity of its DEALER (`stageline.messages.control_identity`), an end of a link by
``role:name``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Union

from stageline.manifest import ModelManifest
from stageline.messages import Hello, Tried
from stageline.nodewishes import NodeWishes
from stageline.plan import Digest, Plan
from stageline.wire import Message
from stageline.wishes import Wishes

from .detector import PeerState
from .figures import Figure
from .network import Link

# --- events in ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Heard:
    """A message of the control channel from `peer`."""

    peer: str
    message: Message


@dataclass(frozen=True)
class PeerChanged:
    """The failure detector's verdict; `disconnected` when a broken connection, not silence, led to it.

    `returned`: heard over a new connection, after the old one broke and nothing was concluded from that.
    """

    peer: str
    state: PeerState
    disconnected: bool = False
    returned: bool = False


@dataclass(frozen=True)
class AddressesTried:
    """The addresses that a peer offers others were tried; `came_from`: where it is seen to be."""

    peer: str
    tried: tuple[Tried, ...]
    came_from: str = ""


@dataclass(frozen=True)
class ModelAdded:
    """The model whose manifest blob is `sha` is registered, on disk; it replaces one of the same name."""

    sha: str
    manifest: ModelManifest


@dataclass(frozen=True)
class ModelRemoved:
    """The model is forgotten, on disk too."""

    name: str


@dataclass(frozen=True)
class NodeRemoved:
    """An administrator wants a worker that is gone forgotten, and what was wanted of it."""

    name: str


@dataclass(frozen=True)
class NodeSet:
    """All that is wanted of the worker from now on, on disk."""

    name: str
    wishes: NodeWishes


@dataclass(frozen=True)
class WishesSet:
    """All that is wanted of the model's plan from now on, on disk."""

    model: str
    wishes: Wishes


@dataclass(frozen=True)
class ObjectiveSet:
    """What all plans are to be best in, on disk."""

    objective: str


@dataclass(frozen=True)
class Solved:
    """The planner's answer (the JSON of a `Solution`) to problem number `problem`; better ones follow until `final`."""

    problem: int
    solution: Mapping[str, Any]
    final: bool = True


@dataclass(frozen=True)
class SolveFailed:
    """The planner could not answer, or died."""

    problem: int
    reason: str


@dataclass(frozen=True)
class Tick:
    """Time has passed; at least every 100 ms."""


Event = Union[
    Heard, PeerChanged, AddressesTried, ModelAdded, ModelRemoved, NodeRemoved, NodeSet, WishesSet, ObjectiveSet, Solved,
    SolveFailed, Tick,
]  # fmt: skip

# --- instructions out ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Send:
    """Send `message` to `peer`; one that is not connected any more is no error."""

    peer: str
    message: Message


@dataclass(frozen=True)
class Watch:
    """Start (anew) to send heartbeats to `peer` and to judge its silence."""

    peer: str


@dataclass(frozen=True)
class Unwatch:
    """Stop that."""

    peer: str


@dataclass(frozen=True)
class PersistPlan:
    """Write the plan to disk before anything that follows is done."""

    plan: Plan


@dataclass(frozen=True)
class PublishPlan:
    """Broadcast it."""

    plan: Plan


@dataclass(frozen=True)
class PublishDigest:
    """Broadcast it."""

    digest: Digest


@dataclass(frozen=True)
class PersistNode:
    """Remember a worker over restarts."""

    hello: Hello


@dataclass(frozen=True)
class ForgetNode:
    """Forget a worker over restarts, too."""

    name: str


@dataclass(frozen=True)
class PersistFigure:
    """Remember what a block costs."""

    graph: str
    fingerprint: str
    batch: int
    figure: Figure


@dataclass(frozen=True)
class PersistLinks:
    """Remember links by the identities of their ends, (from, to)."""

    links: Mapping[tuple[str, str], Link]


@dataclass(frozen=True)
class Solve:
    """Give `document` (the JSON of a `Problem`) to the planner; an older problem is outdated by it."""

    problem: int
    document: Mapping[str, Any]


@dataclass(frozen=True)
class Note:
    """Something worth a line in the log; `event` is a short name, `fields` say what it was about."""

    event: str
    fields: Mapping[str, Any]


Instruction = Union[
    Send,
    Watch,
    Unwatch,
    PersistPlan,
    PublishPlan,
    PublishDigest,
    PersistNode,
    ForgetNode,
    PersistFigure,
    PersistLinks,
    Solve,
    Note,
]
