"""Whose something is that outlives its process, containers above all: a label that names the process, and its test."""

from __future__ import annotations

import os

from stageline.embedded.processes import boot_id, is_running, read_stat


def this_process() -> str:
    """The label of what belongs to this process: ``BOOT:PID:STARTED``."""
    pid = os.getpid()
    stat = read_stat(pid)
    return f"{boot_id()}:{pid}:{stat.started if stat else 0}"


def is_here(owner: str) -> bool:
    """Whether the process that such a label names is, or was, of this machine since it started."""
    return owner.partition(":")[0] == boot_id() != ""


def lives(owner: str) -> bool:
    """Whether that process still runs, as far as this machine can tell."""
    pid, _, started = owner.partition(":")[2].partition(":")
    return is_here(owner) and pid.isdigit() and started.isdigit() and is_running(int(pid), int(started))
