"""Keys are known everywhere before their owners are."""

from __future__ import annotations

from stageline.messages import Admit, Hello, NodeInfo
from stageline_coordinator.introductions import PATIENCE_S, Introduced, Introductions, Step, Tell

INFO = NodeInfo(memory_bytes=1, fingerprint="f", device="cpu", host="h")


def hello(name: str, key: bytes = b"", role: str = "agent") -> Hello:
    return Hello(role=role, name=name, incarnation="i", node=INFO, data_key=key or name.encode() * 32)  # type: ignore[arg-type]


def told(steps: list[Step]) -> dict[str, Admit]:
    return {step.peer: step.message for step in steps if isinstance(step, Tell)}


def introduced(steps: list[Step]) -> list[str]:
    return [step.peer for step in steps if isinstance(step, Introduced)]


def cluster(*names: str) -> Introductions:
    """With these introduced, one after the other."""
    made = Introductions()
    for number, name in enumerate(names):
        steps = made.hello(name, hello(name), names[:number], 0.0, beside=False)
        for peer, message in told(steps).items():
            made.admitted(peer, message.version)
    return made


def test_without_keys_everybody_is_introduced_at_once() -> None:
    plain = Hello(role="agent", name="a", incarnation="i", node=INFO)
    assert Introductions().hello("a", plain, ["b"], 0.0, beside=False) == [Introduced("a", plain)]
    admin = Hello(role="admin", name="x", incarnation="i", data_key=b"k" * 32)
    assert Introductions().hello("x", admin, ["b"], 0.0, beside=False) == [Introduced("x", admin)]


def test_a_newcomer_waits_until_all_let_it_in_and_it_them() -> None:
    made = cluster("a", "b")
    steps = made.hello("c", hello("c"), ["a", "b"], 1.0, beside=False)
    assert introduced(steps) == [] and set(told(steps)) == {"a", "b", "c"}
    message = told(steps)["a"]
    assert message.keys == (b"a" * 32, b"b" * 32, b"c" * 32)
    assert introduced(made.admitted("a", message.version)) == []
    assert introduced(made.admitted("c", message.version)) == []
    assert introduced(made.admitted("b", message.version)) == ["c"]


def test_the_coordinators_own_key_is_let_in_too() -> None:
    steps = Introductions(b"z" * 32).hello("a", hello("a"), [], 0.0, beside=False)
    assert told(steps)["a"].keys == (b"a" * 32, b"z" * 32)


def test_an_older_list_is_no_answer_to_a_newer_one() -> None:
    made = cluster("a")
    version = told(made.hello("b", hello("b"), ["a"], 1.0, beside=False))["a"].version
    made.admitted("b", version)
    assert introduced(made.admitted("a", version - 1)) == []
    assert introduced(made.admitted("a", version + 10)) == ["b"], "what it claims beyond what there is means this one"


def test_who_does_not_answer_is_not_waited_for() -> None:
    made = cluster("a")
    steps = made.hello("b", hello("b"), ["a"], 1.0, beside=False)
    made.admitted("b", told(steps)["b"].version)
    assert made.tick(["a", "b"], ["a", "b"], 1.0 + PATIENCE_S / 2, beside=False) == []
    (step,) = made.tick(["a", "b"], ["a", "b"], 1.0 + PATIENCE_S, beside=False)
    assert isinstance(step, Introduced) and step.peer == "b" and step.silent == ("a",)


def test_who_greets_again_is_introduced_at_once_and_while_it_waits_is_told_again() -> None:
    made = cluster("a")
    assert introduced(made.hello("a", hello("a"), [], 1.0, beside=False)) == ["a"]
    first = told(made.hello("b", hello("b"), ["a"], 1.0, beside=False))["b"]
    assert told(made.hello("b", hello("b"), ["a"], 1.5, beside=False)) == {"b": first}


def test_a_new_incarnation_has_a_new_key_that_all_are_told() -> None:
    made = cluster("a", "b")
    steps = made.hello("b", hello("b", b"n" * 32), ["a", "b"], 1.0, beside=False)
    assert introduced(steps) == [] and b"n" * 32 in told(steps)["a"].keys and b"b" * 32 not in told(steps)["a"].keys


def test_keys_of_who_is_forgotten_are_forgotten() -> None:
    made = cluster("a", "b")
    assert made.tick(["a", "b"], ["a"], 1.0, beside=False) == [], "gone, but not forgotten: it may come back"
    assert told(made.tick(["a"], ["a"], 2.0, beside=False))["a"].keys == (b"a" * 32,)


def test_a_restarted_coordinator_leaves_keys_that_it_does_not_know_until_all_had_time_to_come() -> None:
    made = Introductions()
    steps = made.hello("a", hello("a"), [], 0.0, beside=True)
    assert told(steps)["a"].beside
    made.admitted("a", 1)
    assert made.tick(["a"], ["a"], 1.0, beside=True) == []
    assert not told(made.tick(["a"], ["a"], 3.0, beside=False))["a"].beside
    assert made.tick(["a"], ["a"], 4.0, beside=False) == []


def test_a_revoked_key_is_named_to_all_others_for_good() -> None:
    made = cluster("a", "b")
    message = told(made.revoke("b", ["a", "b"], beside=False))["a"]
    assert message.keys == (b"a" * 32,) and message.revoked == (b"b" * 32,)
    assert made.revoke("b", ["a"], beside=False) == []
    again = told(made.hello("c", hello("c"), ["a"], 1.0, beside=False))["a"]
    assert again.revoked == (b"b" * 32,)
