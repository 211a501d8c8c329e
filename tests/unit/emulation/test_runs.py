"""Whose containers are whose, and that what nobody owns is removed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from stageline.embedded.processes import boot_id, read_stat
from stageline.emulation.engine import Thing
from stageline.emulation.runs import OWNER, RUN, labels, leftovers, others, remove, remove_run
from stageline.errors import ClusterError
from stageline.owners import lives


class Docker:
    """Containers and networks; those in `stuck` stay for so many tries."""

    def __init__(self, *things: Thing, stuck: dict[str, int] | None = None) -> None:
        self.things = list(things)
        self.stuck = stuck or {}

    def labelled(self, label: str) -> list[Thing]:
        key, _, value = label.partition("=")
        return [one for one in self.things if key in one.labels and value in ("", one.labels[key])]

    def remove(self, thing: Thing) -> None:
        self.stuck[thing.id] = self.stuck.get(thing.id, 0) - 1
        if self.stuck[thing.id] >= 0:
            raise ClusterError("Docker: removal is in progress")
        self.things.remove(thing)


def thing(name: str, run: str, owner: str, kind: str = "container") -> Thing:
    return Thing(kind, name, name, {RUN: run, OWNER: owner})


def dead_owner() -> str:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        stat = read_stat(child.pid)
        assert stat is not None
        owner = f"{boot_id()}:{child.pid}:{stat.started}"
        assert lives(owner)
        child.communicate(b"\n")
    return owner


def test_only_what_a_dead_process_owned_is_left_over() -> None:
    mine, dead = labels("1")[OWNER], dead_owner()
    docker = Docker(
        thing("mine", "1", mine),
        thing("dead", "2", dead),
        thing("net", "2", dead, "network"),
        thing("booted", "3", mine.replace(boot_id(), "another-boot")),
        thing("damaged", "4", "nonsense"),
        Thing("container", "foreign", "foreign", {}),
    )
    assert [one.name for one in leftovers(docker)] == ["dead", "net", "booted", "damaged"]
    assert others(docker) == ["1"]
    assert remove(docker, leftovers(docker)) == ["dead", "net", "booted", "damaged"]
    assert [one.name for one in docker.things] == ["mine", "foreign"]


def test_a_pid_that_another_process_has_now_is_not_ours() -> None:
    boot, pid, started = labels("1")[OWNER].split(":")
    assert lives(f"{boot}:{pid}:{started}")
    assert not lives(f"{boot}:{pid}:{int(started) + 1}")


def test_a_run_is_removed_in_several_tries_or_said_to_be_there() -> None:
    pauses: list[float] = []
    docker = Docker(thing("a", "1", "x"), thing("b", "2", "x"), stuck={"a": 2})
    remove_run(docker, "1", pause=pauses.append)
    assert [one.name for one in docker.things] == ["b"]
    assert len(pauses) == 2
    docker = Docker(thing("a", "1", "x"), stuck={"a": 99})
    with pytest.raises(ClusterError, match="left behind: a: try `stageline emulate --clean`"):
        remove_run(docker, "1", pause=pauses.append)


def test_what_docker_made_too_late_for_who_was_interrupted_is_removed_too() -> None:
    docker = Docker(thing("a", "1", "x"))
    remove_run(docker, "1", 1.0, lambda seconds: docker.things.append(thing("late", "1", "x")))
    assert docker.things == []
