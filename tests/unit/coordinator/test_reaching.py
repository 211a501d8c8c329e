"""Addresses that newcomers tell others are tried, and they hear what was seen."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Mapping

import msgspec
import pytest
from fleet import FakeAgent, Fleet

from stageline.addresses import split_key, with_key
from stageline.curve import KeyPair
from stageline.keyring import Keyring
from stageline.messages import DATA, PROBE, REACHED, Admit, ExecutorUp, Hello, Reached, Tried
from stageline.plan import Endpoint
from stageline.reached import complaint
from stageline.sockets import Sockets
from stageline_coordinator import events, reaching
from stageline_coordinator.peers import Offer
from stageline_coordinator.reaching import AGAIN_S, OTHER, SILENT, Reaching
from stageline_coordinator.rows import gateway_rows, node_rows

SERVER = KeyPair.fresh()
LIMIT_S = 20.0
Make = Callable[..., Sockets]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Sockets] = []

    def new(keyring: Keyring | None = None) -> Sockets:
        made.append(Sockets(keyring=keyring))
        return made[-1]

    yield new
    for sockets in made:
        sockets.close()


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaching, "TRY_S", 0.5)


def outcome(made: Reaching, offers: Mapping[str, tuple[Offer, ...]], ahead_s: float = 0.0) -> dict[str, str]:
    """The problems of the first peer about which something is found out, by address."""
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        for found in made.tick(offers, time.monotonic() + ahead_s):
            return {one.address: one.problem for one in found.tried}
    raise AssertionError("nothing was found out")


def test_what_is_reached_what_is_silent_and_what_is_something_else(make: Make) -> None:
    _, data = make().bind_data("127.0.0.1")
    _, probe = make().bind_data("127.0.0.1", PROBE)
    with socket.create_server(("127.0.0.1", 0)) as other, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        silent, wrong = (f"tcp://127.0.0.1:{one.getsockname()[1]}" for one in (closed, other))
        made = Reaching(make())
        offers = {"agent:a": (Offer(DATA.name, data.tcp), Offer(PROBE.name, probe.tcp))}
        assert outcome(made, offers) == {data.tcp: "", probe.tcp: ""}
        assert made.tick(offers, time.monotonic() + 2 * AGAIN_S) == [], "what was reached is not tried again"
        offers["agent:a"] = (Offer(DATA.name, silent), Offer(DATA.name, wrong), Offer(DATA.name, "tcp://nowhere"))
        found = outcome(made, offers)
        assert (found[silent], found[wrong]) == (SILENT, OTHER) and "cannot connect" in found["tcp://nowhere"]
        assert made.tick(offers, time.monotonic() + AGAIN_S / 2) == []
        offers["agent:a"] = (Offer(DATA.name, silent),)
        assert outcome(made, offers) == outcome(made, offers, 2 * AGAIN_S) == {silent: SILENT}
        made.tick({"agent:b": (Offer(DATA.name, wrong),)}, time.monotonic())
        assert made.tick({}, time.monotonic() + 2 * AGAIN_S) == [], "who is gone is not asked for"
        made.close()


def test_with_keys_it_must_be_that_very_process(make: Make) -> None:
    ours = Keyring(SERVER, SERVER.public)
    theirs = Keyring(KeyPair.fresh(), SERVER.public)
    theirs.admit(Admit(version=1, keys=(ours.data.public,)))
    _, endpoint = make(theirs).bind_data("127.0.0.1")
    plain, _ = split_key(endpoint.tcp)
    made = Reaching(make(ours))
    assert outcome(made, {"agent:a": (Offer(DATA.name, endpoint.tcp),)}) == {plain: ""}
    swapped = with_key(plain, KeyPair.fresh().public)
    assert outcome(made, {"agent:a": (Offer(DATA.name, swapped),)}) == {plain: OTHER}
    assert "bears no key" in outcome(made, {"agent:a": (Offer(DATA.name, plain),)})[plain]
    made.close()


def test_the_newcomer_is_told_once_and_again_when_it_changes() -> None:
    made = Fleet()
    agent = FakeAgent("a")
    made.agents["a"] = agent
    made.say(agent.identity, msgspec.structs.replace(agent.hello(), features=(REACHED,)))
    (node,) = made.cluster.members.nodes.values()
    assert node.offers() == (Offer(DATA.name, agent.info().endpoint.tcp),)
    bad = (Tried(address="tcp://10.1.0.9:5", problem=SILENT), Tried(address="tcp://10.1.0.9:6"))
    for _ in range(2):
        made.handle(events.AddressesTried(agent.identity, bad, "10.0.0.7"))
    assert made.replies(agent.identity, Reached) == [Reached(tried=bad, came_from="10.0.0.7")]
    assert node_rows(made.cluster)[0].unreached == (f"tcp://10.1.0.9:5: {SILENT}",)
    good = tuple(Tried(address=one.address) for one in bad)
    made.handle(events.AddressesTried(agent.identity, good, "10.0.0.7"))
    assert made.replies(agent.identity, Reached)[1:] == [Reached(tried=good, came_from="10.0.0.7")]
    assert [note.event for note in made.notes if note.event.startswith("addresses")] == [
        "addresses not reached",
        "addresses reached",
    ]
    made.say(agent.identity, ExecutorUp(executor=FakeAgent("a", executor="a/i1/x2").info()))
    assert len(node.offers()) == 2


def test_who_would_not_understand_it_is_not_told_but_listed() -> None:
    made = Fleet()
    at = Endpoint(tcp="tcp://10.1.0.9:7")
    made.say("gateway:g/i", Hello(role="gateway", name="g", incarnation="i", data=at, probe=at))
    (gateway,) = made.cluster.members.gateways.values()
    assert gateway.offers() == (Offer(DATA.name, at.tcp), Offer(PROBE.name, at.tcp))
    made.handle(events.AddressesTried("gateway:g/i", (Tried(address=at.tcp, problem=OTHER),)))
    made.handle(events.AddressesTried("gateway:nobody/i", (Tried(address=at.tcp, problem=OTHER),)))
    assert not made.replies("gateway:g/i", Reached)
    assert gateway_rows(made.cluster)[0].unreached == (f"{at.tcp}: {OTHER}",)


@pytest.mark.parametrize(
    ("address", "advice"), [("tcp://127.0.0.1:5", "--host 0.0.0.0"), ("tcp://172.17.0.2:5", "data_address")]
)
def test_the_complaint_names_the_address_where_it_came_from_and_what_to_set(address: str, advice: str) -> None:
    message = Reached(tried=(Tried(address="tcp://h:1"), Tried(address=address, problem=SILENT)), came_from="10.0.0.7")
    said = complaint(message)
    assert all(part in said for part in (f"{address}: {SILENT}", "10.0.0.7", "advertise_host", advice))
    assert "tcp://h:1" not in said and len(said.splitlines()) == 1
    assert complaint(Reached(tried=(Tried(address=address),))) == ""
