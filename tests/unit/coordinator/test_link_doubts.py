"""Traffic casts doubt on a link, one measurement settles it: the plan's figure, the log and listings say so at once."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from fleet import MB, FakeAgent, Fleet, link, manifest, probe_of

from stageline.manifest import ModelManifest
from stageline.messages import Flow, Hello, Passage, Pong, Prepare, ProbeRequest, Progress
from stageline.wire import Message
from stageline.wishes import Wishes
from stageline_coordinator import events
from stageline_coordinator.doubts import PAUSE_S, WINDOWS
from stageline_coordinator.rows import node_rows

GATEWAY = "gateway:g"
BATCH = 100_000


class Busy:
    """Three nodes and a gateway on links of 2.5 MB/s, all known; n1 tells what comes from n0 as live workers do."""

    def __init__(self, hosts: tuple[str, str, str] = ("", "", "")) -> None:
        self.fleet = Fleet()
        names = ["n0", "n1", "n2"]
        self.fleet.say(GATEWAY, Hello(role="gateway", name="g", incarnation="i", probe=probe_of("g")))
        everybody = [*(f"agent:{name}" for name in names), GATEWAY]
        for name, host in zip(names, hosts, strict=True):
            known = dict.fromkeys(everybody, link(2.5))
            self.fleet.join(name, links=known, memory=25 * MB, host=host)
        self.fleet.add(manifest(blocks=4))
        self.fleet.pass_time(20.0)
        self.batches, self.busy_s, self.done = 0, 0.0, 0

    @property
    def book(self) -> Any:
        return self.fleet.cluster.measuring.links.book

    def change(self, megabytes_per_s: float, rtt_s: float = 0.002) -> None:
        """What is measured between n0 and n1 from now on."""
        for one, other in (("n0", "n1"), ("n1", "n0")):
            self.fleet.agents[one].links |= {f"agent:{other}": link(megabytes_per_s, rtt_s)}  # type: ignore[operator]

    def run(self, seconds: float, megabytes_per_s: float, load: float = 1.0) -> None:
        """Batches pass from n0 to n1, which the link is busy with for that part of the time."""
        for _ in range(round(seconds / 0.5)):
            self.fleet.pass_time(0.5, 0.1)
            self.busy_s += 0.5 * load
            self.batches = round(self.busy_s * megabytes_per_s * MB / BATCH)
            flow = Flow(
                peer=self.fleet.agents["n0"].executor,
                batches=self.batches,
                nbytes=self.batches * BATCH,
                busy_s=self.busy_s,
                last_s=self.fleet.now,
            )
            for name in ("n0", "n1"):
                self.done += 1
                end = self.fleet.agents[name].executor
                passage = Passage(end=end, looks=self.done, flows=(flow,) if name == "n1" else ())
                progress = Progress(executor=end, items_done=self.done)
                pong = Pong(sequence=1, sent_s=0, incarnation="i1", progress=(progress,), passages=(passage,))
                self.fleet.say(f"agent:{name}", pong)

    def asked(self) -> list[tuple[str, str]]:
        return [(peer, m.peer) for peer, m in self.fleet.sent if isinstance(m, ProbeRequest)]

    def notes(self, event: str) -> list[dict[str, Any]]:
        return [note.fields for note in self.fleet.notes if note.event == event]


AB = ("agent:n0", "agent:n1")


def test_a_link_that_falls_is_in_the_plans_figures_within_seconds_and_listings_say_why() -> None:
    busy = Busy()
    busy.run(5.0, 2.5)
    assert not busy.notes("link doubted")
    busy.change(0.625)
    before, solves = len(busy.asked()), len(busy.fleet.solves)
    busy.run(0.5 * WINDOWS + 0.5, 0.625)
    assert busy.asked()[before] == AB
    assert busy.book.planned[AB].bytes_per_s == 0.625 * MB
    assert len(busy.fleet.solves) > solves, "it is planned anew"
    (doubted,) = busy.notes("link doubted")
    assert (doubted["source"], doubted["target"], doubted["slower"]) == (*AB, True)
    assert doubted["bytes_per_s"] == pytest.approx(0.625 * MB, rel=0.2)
    assert busy.notes("link drifted")[0]["noticed_by"] == "traffic"
    rows = {row.node: row.profile for row in node_rows(busy.fleet.cluster)}
    profile = rows["n0"]
    assert profile is not None
    (row,) = [one for one in profile.links if one.peer == AB[1]]
    assert (row.bytes_per_s, row.before_bytes_per_s) == (0.625 * MB, 2.5 * MB)


def test_what_slowed_a_link_down_is_looked_for_on_the_other_links_of_its_ends() -> None:
    busy = Busy()
    busy.run(5.0, 2.5)
    busy.change(0.625)
    before = len(busy.asked())
    busy.run(30.0, 0.625)
    others = {(one, other) for one in AB for other in ("agent:n2", GATEWAY)}
    assert set(busy.asked()[before:]) >= others


def test_a_doubt_that_no_measurement_shares_changes_nothing_and_comes_back_ever_later() -> None:
    busy = Busy()
    before, solves = len(busy.asked()), len(busy.fleet.solves)
    busy.run(7 * PAUSE_S, 0.5)
    assert len(busy.notes("link doubted")) == 3 and len(busy.asked()) - before == 3
    assert len(busy.fleet.solves) == solves and busy.book.planned[AB].bytes_per_s == 2.5 * MB


def test_a_link_that_became_faster_is_noticed_when_more_passes_than_it_should_carry() -> None:
    busy = Busy()
    busy.change(10.0)
    busy.run(0.5 * WINDOWS + 0.5, 5.0, load=1.0)
    assert busy.book.planned[AB].bytes_per_s == 10.0 * MB
    assert [one["slower"] for one in busy.notes("link doubted")] == [False]


def test_traffic_that_takes_its_part_of_the_link_does_not_make_a_measurement_smaller() -> None:
    busy = Busy()
    busy.run(3.0, 2.5)
    busy.change(1.0, rtt_s=0.4)  # beside traffic of 2.5 MB/s, which fills the link
    busy.fleet.cluster.measuring.links._tournament.again(AB, busy.fleet.now)
    before = len(busy.asked())
    busy.run(1.0, 2.5)
    assert len(busy.asked()) > before
    latest = busy.book.latest[AB]
    assert latest.bytes_per_s == pytest.approx(2.5 * MB, rel=0.1) and latest.latency_s == 0.001
    assert busy.book.latest[AB[::-1]].latency_s == 0.001


def test_weights_on_their_way_to_a_worker_are_not_taken_for_a_slow_link(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = FakeAgent.answer

    def still_loading(self: FakeAgent, message: Message, models: dict[str, ModelManifest]) -> Message | None:
        if not isinstance(message, Prepare):
            return answer(self, message, models)
        self.got.append(message)
        return None

    busy = Busy()
    busy.run(5.0, 2.5)
    monkeypatch.setattr(FakeAgent, "answer", still_loading)
    busy.fleet.handle(events.WishesSet("other", Wishes(forbidden=("n0", "n2"))))
    busy.fleet.add(manifest("other", blocks=2, weights=MB))
    agent = busy.fleet.agents["n1"]
    told = [message for message in agent.got if isinstance(message, Prepare)]
    assert told and not set(told[-1].stages) <= set(agent.loaded)
    busy.run(5.0, 0.625)
    assert not busy.notes("link doubted")
    monkeypatch.undo()
    found = agent.answer(told[-1], {})
    assert found is not None
    busy.fleet.say(agent.identity, found)
    busy.run(2.0, 0.625)
    assert busy.notes("link doubted")


def test_figures_change_one_after_the_other_only_ever_more_rarely() -> None:
    busy, changes = Busy(), list[float]()
    busy.run(5.0, 2.5)
    while busy.fleet.now < 300.0:
        rate = 0.625 if busy.book.planned[AB].bytes_per_s > MB else 2.5
        busy.change(rate)
        seen = len(busy.notes("link drifted"))
        while len(busy.notes("link drifted")) == seen and busy.fleet.now < 300.0:
            busy.fleet.cluster.measuring.links._tournament.again(AB, busy.fleet.now)
            busy.fleet.pass_time(0.5)
        changes.append(busy.fleet.now)
    waits = [later - sooner for sooner, later in itertools.pairwise(changes[:-1])]
    assert len(waits) >= 3 and all(later >= 1.9 * sooner for sooner, later in itertools.pairwise(waits))


def test_links_within_a_host_are_not_judged_by_traffic() -> None:
    busy = Busy(("h", "h", ""))
    busy.change(0.5)
    busy.run(10.0, 0.5)
    assert not busy.notes("link doubted")


def test_what_others_say_of_a_link_counts_for_nothing() -> None:
    busy = Busy()
    flow = Flow(peer=busy.fleet.agents["n0"].executor, batches=0, nbytes=0, busy_s=0.0, last_s=0.0)
    for number in range(20):
        told = Flow(peer=flow.peer, batches=10 * number, nbytes=number, busy_s=1.0 * number, last_s=1.0 * number)
        passage = Passage(end=busy.fleet.agents["n1"].executor, looks=number, flows=(told,))
        busy.fleet.say("agent:n2", Pong(sequence=1, sent_s=0, incarnation="i1", passages=(passage,)))
        busy.fleet.pass_time(0.5)
    assert not busy.notes("link doubted")
