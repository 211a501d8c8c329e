"""Ports for services that a test starts on a port that it has to know beforehand."""

from __future__ import annotations

import contextlib
import secrets
import socket
from pathlib import Path


def free_port() -> int:
    """A port of loopback that nobody has now, and that stays free until it is bound, or bound again.

    So it is none of those that the kernel gives to connections and to who asks for any port: within the seconds that an
    executor takes to start one of the cluster's own connections could get it.
    """
    least = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = least - 1 - secrets.randbelow(min(20_000, least - 1024))
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
