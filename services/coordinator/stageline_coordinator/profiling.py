"""What blocks cost on which hardware, and whom to ask for what is not known yet. Pure.

One node per fingerprint is asked at a time, for a few blocks at a time, so that progress is visible and little
is lost with a node: first one item a batch, which is all that a first plan needs, then four, then, on nodes
that have nothing else to do, `MORE_BATCHES`. A node that serves requests meanwhile spends `BUSY_SHARE` of its time on
it. A block that cannot be measured `MAX_ATTEMPTS` times is taken as one that the hardware cannot run.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from stageline.blocks import MAX_BYTES
from stageline.data import MAX_BATCH_ITEMS
from stageline.messages import BlockTime, Profiled, ProfileRequest

from .events import PersistFigure
from .figures import Figure, FigureBook, FigureKey, Models, most_items
from .peers import Node

MORE_BATCHES = (2, 8)
ROUNDS = ((1,), (4,), MORE_BATCHES)
"""Batch sizes in the order in which they are measured; the last only on nodes without traffic."""

CHUNK_BLOCKS = 4
MAX_ATTEMPTS = 5
RETRY_S = 1.0
"""A block that could not be measured is tried again after 1, 2, 3, … seconds."""

ANSWER_S = 120.0
"""How long a node may take for one chunk before it counts as failed."""

BUSY_SHARE = 0.03
"""Of the time of a node that serves requests, at most, for measuring; what is promised is 5 %."""

LOOK_S = 1.0
"""Where nothing is missing it is looked again so soon: loaded stages, and with them the room, may have changed."""

FEWEST_RUNS = 5
"""What a worker that does not say how often it ran a block is taken to have done."""

LEAST_S, MOST_S = 1e-9, 1e6
"""Seconds beyond these cannot be; a thousandth and a thousand times them are still what problems take."""


@dataclass(frozen=True)
class _Asked:
    node: str
    manifest: str
    graphs: tuple[str, ...]
    batches: tuple[int, ...]
    until: float


class ProfileBook(FigureBook):
    """All figures, and who is being asked for more."""

    def __init__(self, figures: Mapping[FigureKey, Figure]) -> None:
        super().__init__(figures)
        self._asked: dict[str, _Asked] = {}
        self._not_before: dict[str, float] = {}
        self._attempts: dict[FigureKey, int] = {}
        self._content: dict[str, tuple[object, float]] = {}
        self.errors: dict[str, str] = {}
        """The last failure by fingerprint."""

    # --- what is asked --------------------------------------------------------------------------------------

    @property
    def at_work(self) -> frozenset[str]:
        """Names of the nodes that measure now."""
        return frozenset(asked.node for asked in self._asked.values())

    def requests(self, nodes: Sequence[Node], models: Models, now: float) -> list[tuple[Node, ProfileRequest]]:
        """Whom to ask now, marked as asked; of equal nodes rather one without traffic."""
        self._expire(nodes, now)
        found: list[tuple[Node, ProfileRequest]] = []
        for node in sorted(nodes, key=lambda node: not node.quiet(now)):
            fingerprint = node.info.fingerprint
            if fingerprint in self._asked or now < self._not_before.get(fingerprint, 0.0):
                continue
            state = (self.learned, frozenset(sha for sha, _ in models.values()), node.quiet(now))
            before, until = self._content.get(node.name, (None, 0.0))
            if before == state and now < until:
                continue
            chunk = self._next_chunk(models, node, node.quiet(now))
            if chunk is None:
                self._content[node.name] = (state, now + LOOK_S)
                continue
            sha, wanted, batches = chunk
            self._asked[fingerprint] = _Asked(node.name, sha, tuple(wanted), batches, now + ANSWER_S)
            found.append((node, ProfileRequest(manifest=sha, blocks=tuple(wanted.values()), batches=batches)))
        return found

    def profiled(self, node: Node, message: Profiled, models: Models, now: float) -> list[PersistFigure]:
        """Take an answer in; returns what is new."""
        fingerprint = message.fingerprint
        asked = self._asked.get(fingerprint)
        manifest = next((m for sha, m in models.values() if sha == message.manifest), None)
        found: list[PersistFigure] = []
        for time in message.times if manifest else ():
            if manifest and 0 <= time.block < len(manifest.blocks) and _sound(time):
                graph = manifest.blocks[time.block].graph
                figure = Figure(max(0.0, time.seconds), max(0, time.workspace_bytes), max(0.0, time.error))
                self.learn(FigureKey(graph, fingerprint, time.batch), figure)
                found.append(PersistFigure(graph, fingerprint, time.batch, figure))
        if asked is not None and (asked.node, asked.manifest) == (node.name, message.manifest):
            del self._asked[fingerprint]
            rest_s = 0.0 if node.quiet(now) else _spent(message.times) / BUSY_SHARE
            self._not_before[fingerprint] = now + rest_s
            self._count_failures(asked, fingerprint, message.error, now)
        return found

    def lost(self, node: str) -> None:
        """`node` will not answer: its question is free for another."""
        self._asked = {f: asked for f, asked in self._asked.items() if asked.node != node}

    # --- parts ----------------------------------------------------------------------------------------------

    def _next_chunk(
        self, models: Models, node: Node, quiet: bool
    ) -> tuple[str, dict[str, int], tuple[int, ...]] | None:
        """(manifest, block by graph, batches): what is missing in the first round that is not complete."""
        fingerprint = node.info.fingerprint
        for sizes in ROUNDS if quiet else ROUNDS[:-1]:
            for sha, manifest in models.values():
                batches = tuple(size for size in sizes if size <= most_items(manifest))
                room = _room(node, models) if max(sizes) > 1 else math.inf
                wanted: dict[str, int] = {}
                for i, block in enumerate(manifest.blocks):
                    fits = block.weight_bytes + max(sizes) * block.workspace_bytes <= room
                    if fits and not all(self.figure(block.graph, fingerprint, batch) for batch in batches):
                        wanted.setdefault(block.graph, i)
                if wanted:
                    failing = any(self._attempts.get(FigureKey(g, fingerprint, b)) for g in wanted for b in batches)
                    few = failing or not quiet or sizes == MORE_BATCHES
                    return sha, dict(list(wanted.items())[: 1 if few else CHUNK_BLOCKS]), batches
        return None

    def _count_failures(self, asked: _Asked, fingerprint: str, error: str, now: float) -> None:
        left = [FigureKey(g, fingerprint, b) for g in asked.graphs for b in asked.batches]
        left = [key for key in left if self.figure(*key) is None]
        if left:
            self.errors[fingerprint] = error or "the worker did not measure every block that it was asked for"
        for key in left[:1]:  # they are measured in order: the first one missing is the culprit
            attempts = self._attempts[key] = self._attempts.get(key, 0) + 1
            self._not_before[fingerprint] = max(self._not_before.get(fingerprint, 0.0), now + attempts * RETRY_S)
            if attempts >= MAX_ATTEMPTS:
                self.learn(key, Figure(math.inf))

    def _expire(self, nodes: Collection[Node], now: float) -> None:
        for fingerprint, asked in list(self._asked.items()):
            if now >= asked.until:
                del self._asked[fingerprint]
                if all(node.quiet(now) for node in nodes if node.name == asked.node):  # others may not get to it
                    error = f"{asked.node} did not answer within {ANSWER_S:g} s"
                    self._count_failures(asked, fingerprint, error, now)


def _room(node: Node, models: Models) -> int:
    """Bytes that the node has beside its runtime and the weights of the stages that it has loaded."""
    manifests = dict(models.values())
    loaded = (
        block.weight_bytes
        for stage in node.loaded()
        if stage.manifest in manifests
        for block in manifests[stage.manifest].blocks[stage.start : stage.end]
    )
    return node.info.memory_bytes - node.info.base_bytes - sum(loaded)


def _sound(time: BlockTime) -> bool:
    """Whether the figures can be, and can be stored: workers have not always measured well."""
    sizes = 1 <= time.batch <= MAX_BATCH_ITEMS and time.workspace_bytes <= MAX_BYTES
    possible = time.seconds <= 0 or LEAST_S <= time.seconds <= MOST_S
    return sizes and possible and math.isfinite(time.error)


def _spent(times: Iterable[BlockTime]) -> float:
    """Seconds that went into these figures, the warm-up included, and at least as many as the figures need."""
    return math.fsum(max(time.spent_s, (max(time.runs, FEWEST_RUNS) + 1) * time.seconds) for time in times)
