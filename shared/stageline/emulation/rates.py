"""Limits of what a container sends and receives: tbf on both ends of its interface, set from outside of it.

What it sends is limited at its own end, which is in its network namespace, what it receives at the end that is in ours.
Needs root, `tc` and `ip` (iproute2) and `nsenter` (util-linux).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from stageline.emulation.spec import Link
from stageline.errors import ClusterError, ConfigError

TOOLS = ("tc", "ip", "nsenter")
INTERFACE = "eth0"
NETWORKS = Path("/sys/class/net")
LATENCY_MS = 50
"""How long a packet may wait in the queue; what comes then is dropped, upon which TCP slows down."""

LEAST_BURST = 32 << 10
BURST_S = 0.004
"""The kernel's timer must not be what limits."""

PEER = re.compile(rf"^\d+: {INTERFACE}@if(\d+):")


def check_tools() -> None:
    """Raises `ConfigError` when rates cannot be limited here."""
    if os.geteuid() != 0:
        raise ConfigError("limiting the rates of links takes root: run it as root, or leave up_mbps and down_mbps out")
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise ConfigError(f"limiting the rates of links takes {', '.join(missing)}: install iproute2 and util-linux")


def limit(pid: int, link: Link) -> None:
    """The container whose first process is `pid`; rates of 0 are no longer limited. `ClusterError` if it has ended."""
    inside = ("nsenter", "--target", str(pid), "--net")
    _queue(link.up_mbps, INTERFACE, inside)
    _queue(link.down_mbps, _outer(_run(*inside, "ip", "-o", "link", "show", INTERFACE)), ())


def discipline(mbps: float) -> list[str]:
    """What `tc` is told of a rate."""
    burst = max(LEAST_BURST, round(mbps * 1e6 / 8 * BURST_S))
    return f"tbf rate {round(mbps * 1000)}kbit burst {burst} latency {LATENCY_MS}ms".split()


def _queue(mbps: float, interface: str, prefix: tuple[str, ...]) -> None:
    if mbps:
        _run(*prefix, "tc", "qdisc", "replace", "dev", interface, "root", *discipline(mbps))
    elif "tbf" in _run(*prefix, "tc", "qdisc", "show", "dev", interface):
        _run(*prefix, "tc", "qdisc", "del", "dev", interface, "root")


def _outer(described: str) -> str:
    """Our end of the pair, by the number that the other end tells."""
    found = PEER.match(described)
    number = found.group(1) if found else ""
    for interface in NETWORKS.iterdir() if number else ():
        if (interface / "ifindex").read_text().strip() == number:
            return interface.name
    raise ClusterError("a container's interface has no end here: does Docker run in another network namespace?")


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())
        raise ClusterError(f"cannot limit the rate of a link: {said} ({' '.join(command)})")
    return done.stdout
