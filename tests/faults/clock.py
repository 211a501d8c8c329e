"""Wall clocks of single processes, moved while they run, by a library that is compiled here and preloaded.

libfaketime 0.9.10 does the same; told to leave the monotonic clock alone, it breaks `time.sleep`.
Monotonic clocks never jump; what can become of theirs, standing still, is what frozen processes see.
"""

from __future__ import annotations

import email.utils
import http.client
import shutil
import struct
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

SOURCE = Path(__file__).with_name("wallclock.c")
TIMEOUT_S = 5.0


def lacking() -> str:
    """Why clocks cannot be moved here; empty if they can."""
    return "" if shutil.which("cc") else "moving a clock needs a C compiler (apt-get install gcc libc6-dev)"


def environ(control: Path) -> Mapping[str, str]:
    """What makes a process, and its children, ask `control` how far to move their wall clock."""
    library = control.with_name("wallclock.so")
    if not library.exists():
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"], check=True)
    control.write_bytes(struct.pack("d", 0.0))
    return {"LD_PRELOAD": str(library), "STAGELINE_FAULT_CLOCK": str(control)}


def move(control: Path, seconds: float) -> None:
    """The processes of that file see a time so much later from now on, or earlier. The file stays where it is."""
    with control.open("r+b") as file:
        file.write(struct.pack("d", seconds))


def offset(address: str) -> float:
    """How far the wall clock of a service is ahead of ours, in seconds, by the date in its HTTP answers."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/healthz")
        said = connection.getresponse().getheader("Date", "")
    finally:
        connection.close()
    return email.utils.parsedate_to_datetime(said).timestamp() - time.time()
