"""For all tests."""

from __future__ import annotations

import signal

# A shell starts background jobs with SIGINT ignored, and children inherit that: a command that a test starts and
# interrupts would never notice.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
