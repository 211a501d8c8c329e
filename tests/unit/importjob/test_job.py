"""The job's side: it passes on what its child says, tells how that ended, and goes when nobody is there any more."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from stageline.importjob.words import Ended, Failed, Printed, Ready, Request, Said, Step, encode

PARENT = """
import sys
from pathlib import Path
from stageline_stage import importjob
importjob.CHILD = ["-c", {child!r}]
importjob.KILLS = [Path(sys.argv[1], "memory.events")]
importjob.NEEDS = {needs!r}
sys.exit(importjob.main())
"""
CHILD = """
import json, os, signal, sys, time
request = json.loads(sys.stdin.readline())
def tell(**words):
    os.write(int(sys.argv[2]), json.dumps(words).encode() + b"\\n")
"""
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts one, whose child runs that script."""
    begun: list[subprocess.Popen[bytes]] = []

    def start(script: str = "", needs: str = "sys") -> subprocess.Popen[bytes]:
        text = PARENT.format(child=CHILD + script, needs=needs)
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", text, str(tmp_path)]
        begun.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=tmp_path, bufsize=0))
        return begun[-1]

    yield start
    for one in begun:
        with one:  # closes its pipes
            one.kill()


def told(job: subprocess.Popen[bytes]) -> list[Said]:
    """All that it says until its last word; it goes on running."""
    assert job.stdin and job.stdout
    assert hears(job) == Ready()
    job.stdin.write(encode(Request("m:f", "net")))
    job.stdin.flush()
    found: list[Said] = []
    while not found or not isinstance(found[-1], Ended):
        found.append(hears(job))
    assert job.poll() is None
    job.stdin.close()
    assert job.wait(30) == 0
    return found


def hears(job: subprocess.Popen[bytes]) -> Said:
    assert job.stdout
    while True:
        assert select.select([job.stdout], [], [], 60)[0]
        if (line := job.stdout.readline()).strip():
            return msgspec.json.decode(line, type=Said)


def test_what_the_child_says_is_passed_on(start: Start) -> None:
    assert told(start('tell(type="step", step=request["source"], part=0.5); print("for people")')) == [
        Step("m:f", 0.5),
        Printed("for people"),
        Ended(0),
    ]


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("sys.exit(3)", [Ended(3)]),
        ("os.kill(os.getpid(), signal.SIGSEGV)", [Ended(-11)]),
        ('os.write(int(sys.argv[2]), b"{cut"); sys.exit(1)', [Ended(1)]),
        ('print("a\\n\\n\\r10 %\\r20 %\\n"); sys.exit("b")', [Printed("a"), Printed("20 %"), Printed("b"), Ended(1)]),
    ],
)
def test_how_the_child_ended_is_told(start: Start, script: str, says: list[Said]) -> None:
    job = start(script)
    if "cut" in script:
        with pytest.raises(msgspec.DecodeError):
            told(job)
        assert hears(job) == says[-1]  # on a line of its own
    else:
        assert told(job) == says


def test_a_child_that_was_killed_for_memory_is_told_apart(start: Start, tmp_path: Path) -> None:
    (tmp_path / "memory.events").write_text("low 0\noom 1\noom_kill 1\n")
    assert told(start('tell(type="failed", code="model", message="odd"); sys.exit(1)')) == [
        Failed("model", "odd"),
        Ended(1, out_of_memory=True),
    ]


def test_a_grandchild_that_holds_the_pipe_keeps_nobody_waiting(start: Start) -> None:
    job = start('pid = os.fork()\nif not pid: time.sleep(600)\ntell(type="step", step=str(pid), part=0)')
    step, ended = told(job)
    assert isinstance(step, Step)
    os.kill(int(step.step), signal.SIGKILL)
    assert ended == Ended(0)


def test_it_goes_with_its_child_when_nobody_is_there_any_more(start: Start, tmp_path: Path) -> None:
    alone = start()
    assert alone.stdin
    assert hears(alone) == Ready()
    alone.stdin.close()
    assert alone.wait(30) == 0

    busy = start('tell(type="step", step=str(os.getpid()), part=0)\ntime.sleep(600)')
    assert busy.stdin
    assert hears(busy) == Ready()
    busy.stdin.write(encode(Request("m:f", "net")))
    busy.stdin.flush()
    step = hears(busy)
    assert isinstance(step, Step) and Path("/proc", step.step).exists()
    busy.stdin.close()
    assert busy.wait(30) == 1
    assert not Path("/proc", step.step).exists()


def test_an_image_without_torch_says_so(start: Start) -> None:
    failed, ended = told(start(needs="a_module_that_is_not_there"))
    assert isinstance(failed, Failed) and failed.code == "config" and "the image has no torch" in failed.message
    assert ended == Ended(1)
