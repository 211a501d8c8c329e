"""Signals set a flag and wake pollers; a second Ctrl-C forces."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

from stageline.lifecycle import FORCED_EXIT, StopSignals


def test_a_signal_sets_the_flag_and_wakes_a_poller() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as stopping:
        assert not stopping.requested
        assert select.select([stopping], [], [], 0)[0] == []
        os.kill(os.getpid(), signal.SIGTERM)
        assert select.select([stopping], [], [], 10)[0] == [stopping]
        assert stopping.requested
        stopping.drain()
        assert select.select([stopping], [], [], 0)[0] == []
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_second_interrupt_ends_the_process_at_once() -> None:
    program = (
        "import os, signal\n"
        "from stageline.lifecycle import StopSignals\n"
        "with StopSignals():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('first', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('second', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (FORCED_EXIT, "first\n")
