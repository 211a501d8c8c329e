"""Twenty unequal boxes from the first hello to a plan that knows blocks and links, in virtual time."""

from __future__ import annotations

import heapq

import pytest
from fleet import MB, FakeAgent, Fleet, link, manifest, probe_of

from stageline.messages import Hello, ProbeRequest, ProfileRequest
from stageline.wire import Message
from stageline_coordinator.events import Heard, Send, Solved, Tick
from stageline_coordinator.planner import Problem, algorithms
from stageline_coordinator.turns import Turns

NODES, BLOCKS = 20, 40
LINK_S = 0.15
TICK_S = 0.1
WITHIN_S = 120.0


class SlowFleet(Fleet):
    """Measuring takes its time: a link `LINK_S`, a block `block_s[node]` per batch size, whatever else goes on."""

    def __init__(self, block_s: dict[str, float]) -> None:
        super().__init__()
        self.block_s = block_s
        self.at_work: dict[str, str] = {}
        self._due: list[tuple[float, int, FakeAgent, Message]] = []

    def run(self, until: float) -> None:
        """Answers and ticks in order."""
        tick = self.now + TICK_S
        while self.now < until:
            if self._due and self._due[0][0] <= tick:
                self.now, _, agent, message = heapq.heappop(self._due)
                for busy in [name for name, at in self.at_work.items() if at == agent.name]:
                    del self.at_work[busy]
                reply = agent.answer(message, {})
                assert reply is not None
                self.handle(Heard(agent.identity, reply))
            else:
                self.now, tick = tick, tick + TICK_S
                self.handle(Tick())

    def answer_solve(self) -> None:
        """Any plan will do, and this one takes milliseconds."""
        last = self.solves[-1]
        self.handle(Solved(last.problem, algorithms.run(Problem.from_json(last.document), "ar-mdi").to_json()))

    def _deliver(self, send: Send) -> None:
        agent = self.agents.get(send.peer.removeprefix("agent:"))
        message = send.message
        if agent is None or not isinstance(message, ProfileRequest | ProbeRequest):
            super()._deliver(send)
            return
        ends = [agent.name]
        seconds = LINK_S
        if isinstance(message, ProbeRequest):
            ends.append(message.peer.split(":")[1])
        else:
            seconds = self.block_s[agent.name] * len(message.blocks) * len(message.batches)
        assert not self.at_work.keys() & set(ends), "nothing else is measured there"
        self.at_work |= dict.fromkeys(ends, agent.name)
        heapq.heappush(self._due, (self.now + seconds, len(self.sent), agent, message))


def together(block_s: dict[str, float]) -> SlowFleet:
    made = SlowFleet(block_s)
    names = list(block_s)
    links = dict.fromkeys([*(f"agent:{name}" for name in names), "gateway:g"], link(10))
    made.add(manifest(blocks=BLOCKS))
    made.say("gateway:g", Hello(role="gateway", name="g", incarnation="i", probe=probe_of("g")))
    for name in names:
        made.join(name, links=dict(links), memory=BLOCKS * 3 * MB, fingerprint=f"cpu of {name}")
    return made


def known(made: SlowFleet) -> bool:
    """Whether the last problem has a figure for every block on every node, and for both directions of every link."""
    document = dict(made.solves[-1].document) if made.solves else {}
    if len(document.get("nodes", ())) < NODES or not {"links", "ingress", "egress"} <= document.keys():
        return False
    rates = [
        *document["links"]["bandwidth_bytes_per_s"],
        *(document[p]["bandwidth_bytes_per_s"] for p in ("ingress", "egress")),
    ]
    found = sum(rate == 10 * MB for row in rates for rate in row)
    planned = len(made.cluster.measuring.links.book.planned)
    blocks = document["models"][0]["blocks"]
    return found == planned == NODES * (NODES + 1) and all(None not in block["seconds"] for block in blocks)


@pytest.mark.parametrize("slowest_s", [0.3, 2.0], ids=["alike", "some much slower"])
def test_blocks_and_links_of_twenty_unlike_nodes_are_known_within_two_minutes(slowest_s: float) -> None:
    fastest_s = 0.2
    step = (slowest_s - fastest_s) / (NODES - 1)
    made = together({f"n{i:02}": fastest_s + step * i for i in range(NODES)})
    while made.now < WITHIN_S and not known(made):
        made.run(made.now + 5.0)
    assert known(made), made.now
    assert made.model().status == "serving"


def test_a_host_rests_as_long_as_it_measured_while_links_wait() -> None:
    turns = Turns()
    turns.saw({"h"}, 10.0)
    assert not turns.free("h", {"h"}, 11.0), "no second node of it begins while links wait"
    assert turns.free("h", {"g"}, 11.0) and turns.free("g", {"g"}, 11.0)
    turns.saw((), 14.0)
    assert not turns.free("h", {"h"}, 17.9) and turns.free("h", {"g"}, 15.0)
    assert turns.free("h", {"h"}, 18.0)
    turns.saw({"h"}, 20.0)
    turns.saw((), 21.0)
    assert not turns.free("h", {"h"}, 21.9) and turns.free("h", {"h"}, 22.0)
