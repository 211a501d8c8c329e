"""What a machine must offer for an event."""

from __future__ import annotations

import os

from . import cgroup, clock, commits
from .damage import Starved, Throttled
from .disks import FullCache, FullDisk, FullJournal
from .events import Event
from .jumps import ClockJump


def lacking(event: Event) -> str:
    """What this machine lacks for the event; empty if nothing."""
    if isinstance(event, (Throttled, Starved)):
        return cgroup.lacking()
    if isinstance(event, ClockJump):
        return clock.lacking()
    if isinstance(event, commits.KilledInCommit):
        return commits.lacking()
    small = isinstance(event, (FullDisk, FullCache, FullJournal))
    return "a small disk needs root" if small and os.geteuid() != 0 else ""
