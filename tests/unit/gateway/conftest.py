"""An engine with a virtual clock; batches are answered when a test says so. Each stage adds one to each byte."""

from __future__ import annotations

from math import inf
from typing import Any

import msgspec
import pytest

from stageline.data import Activation, Failure, Tensor
from stageline.plan import (
    Digest,
    DimRange,
    Endpoint,
    ModelPlan,
    NodeView,
    Plan,
    PlanStage,
    Replica,
    Signature,
    ValueSpec,
)
from stageline.protocol import Infer, TensorSpec
from stageline_gateway import events as ev
from stageline_gateway.core import Identity
from stageline_gateway.engine import Engine
from stageline_gateway.settings import Settings

SIGNATURE = Signature(
    inputs=(ValueSpec("x", "uint8", ("batch", 2)),),
    outputs=(ValueSpec("y", "uint8", ("batch", 2)),),
    dims={"batch": DimRange(1, 64, 1)},
)


def replica(node: str) -> Replica:
    return Replica(node, f"{node}/0", Endpoint(f"tcp://{node}:1", f"ipc://@{node}", "here"))


def model_plan(
    stages: list[list[str]],
    *,
    name: str = "m",
    status: str = "serving",
    standbys: list[list[str]] | None = None,
    **more: Any,
) -> ModelPlan:
    spare = standbys or [[] for _ in stages]
    planned = tuple(
        PlanStage(
            i, i + 1, tuple(map(replica, nodes)), compute_s=0.01, output_bytes=2, standbys=tuple(map(replica, spare[i]))
        )
        for i, nodes in enumerate(stages)
    )
    values = {"manifest": "ab" * 32, "signature": SIGNATURE, "stages": planned, "input_bytes": 2, **more}
    return ModelPlan(name=name, status=status, **values)  # type: ignore[arg-type]


def views(states: dict[str, str]) -> tuple[NodeView, ...]:
    return tuple(
        NodeView(node, "i", state, () if state == "gone" else (f"{node}/0",))  # type: ignore[arg-type]
        for node, state in states.items()
    )


class World:
    """Drives an engine; `outcomes` maps (client, id) to every Answer and Refuse, in order."""

    def __init__(self, *, now: float = 100.0, unix_s: float = 0.0, started: float = -inf, **settings: Any) -> None:
        values = {"batch_delay_s": 0.0, **settings}
        here = Endpoint("tcp://g:1", "ipc://@g", "here")
        self.engine = Engine(Settings(**values), Identity("g/1", here, unix_s=unix_s, started=started))
        self.now = now
        self.version = 0
        self.sequence = 0
        self.term = 1
        self.states: dict[str, str] = {}
        self.sent: list[ev.Dispatch] = []
        self.outcomes: dict[tuple[int, int], list[ev.Answer | ev.Refuse]] = {}
        self.others: list[ev.Instruction] = []
        self.wake: float | None = None

    def feed(self, event: ev.Event) -> None:
        for do in self.engine.handle(event, self.now):
            if isinstance(do, ev.Dispatch):
                self.sent.append(do)
            elif isinstance(do, ev.Answer):
                self.outcomes.setdefault((do.client, do.result.id), []).append(do)
            elif isinstance(do, ev.Refuse):
                self.outcomes.setdefault((do.client, do.id), []).append(do)
            elif isinstance(do, ev.WakeAt):
                self.wake = do.time
            else:
                self.others.append(do)

    def plan(self, stages: list[list[str]], **more: Any) -> None:
        self.plan_models(model_plan(stages, **more))

    def plan_models(self, *models: ModelPlan) -> None:
        self.version += 1
        for model in models:
            for stage in model.stages:
                for one in (*stage.replicas, *stage.standbys):
                    self.states.setdefault(one.node, "alive")
        self.feed(ev.PlanApplied(Plan(self.term, self.version, models, views(self.states))))

    def state(self, **states: str) -> None:
        self.states.update(states)
        self.sequence += 1
        self.feed(ev.DigestApplied(Digest(self.term, self.version, self.sequence, views(self.states))))

    def link(self, node: str, up: bool) -> None:
        self.feed(ev.LinkChanged(f"ipc://@{node}", up))

    def ask(self, client: int = 1, id: int = 1, value: int = 7, rows: int = 1, **more: Any) -> None:
        model = more.pop("model", "m")
        infer = Infer(id, model, (TensorSpec("x", "uint8", (rows, 2)),), **more)
        self.feed(ev.RequestArrived(client, infer, [bytes([value] * 2 * rows)]))

    def advance(self, seconds: float) -> None:
        """Let time pass, waking the engine whenever it asked to be."""
        end = self.now + seconds
        while self.wake is not None and self.wake <= end:
            self.now, self.wake = max(self.now, self.wake), None
            self.feed(ev.Tick())
        self.now = end

    def result(self, sent: ev.Dispatch, **changes: Any) -> ev.ResultArrived:
        header = sent.header
        stages = len(header.path)
        done = msgspec.structs.replace(header, hop=stages, **changes)
        data = b"".join(bytes(b) for b in sent.buffers)
        return ev.ResultArrived(done, [bytes((v + stages) % 256 for v in data)])

    def answer(self, sent: ev.Dispatch, **changes: Any) -> None:
        self.feed(self.result(sent, **changes))

    def fail(
        self, sent: ev.Dispatch, *, retryable: bool, code: str = "failed", node: str = "a", text: str = "it broke"
    ) -> None:
        h: Activation = sent.header
        self.feed(
            ev.FailureArrived(
                Failure(h.version, h.gateway, h.batch, h.attempt, code, text, node, f"{node}/0", retryable)
            )
        )

    def outcome(self, client: int = 1, id: int = 1) -> ev.Answer | ev.Refuse | None:
        found = self.outcomes.get((client, id), [])
        assert len(found) <= 1, "more than one outcome"
        return found[0] if found else None

    def code(self, client: int = 1, id: int = 1) -> str:
        found = self.outcome(client, id)
        if found is None:
            return "none"
        return "result" if isinstance(found, ev.Answer) else found.error.code

    def values(self, client: int = 1, id: int = 1) -> bytes:
        found = self.outcome(client, id)
        assert isinstance(found, ev.Answer)
        return bytes(found.buffers[0])

    def settled(self) -> bool:
        """Whether nothing is left of any request."""
        engine = self.engine
        return engine.idle and engine.credits_held == (0, 0) and (engine.in_flight_bytes, engine.batches_kept) == (0, 0)


class Kit:
    """What test modules need from here: in importlib mode they cannot import each other."""

    World = World
    Tensor = Tensor
    model_plan = staticmethod(model_plan)
    replica = staticmethod(replica)
    views = staticmethod(views)
    signature = SIGNATURE


@pytest.fixture(scope="session")
def kit() -> type[Kit]:
    return Kit


@pytest.fixture
def world() -> World:
    made = World()
    made.plan([["a"], ["b"]])
    return made
