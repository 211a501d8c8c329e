"""The ports that the services of an embedded cluster got when any free one would do.

They lie in the data directory and outlive the cluster, so that the next one there has the same: a client's
configuration, a bookmark or a scraper then stays right. The coordinator keeps those of its channels itself.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec

PORTS_FILE = "ports.json"
Ports = dict[str, dict[str, Annotated[int, msgspec.Meta(ge=1, le=65535)]]]
"""By process and setting."""


def kept_ports(data_dir: Path) -> Ports:
    """What the file says; nothing where there is none, or it is not one."""
    try:
        return msgspec.json.decode((data_dir / PORTS_FILE).read_bytes(), type=Ports)
    except (OSError, msgspec.DecodeError):
        return {}


def keep_ports(data_dir: Path, name: str, ports: Mapping[str, int]) -> None:
    """Write down those of one process, atomically; those of others stay. One start at a time may do that."""
    kept = {**kept_ports(data_dir), name: dict(ports)}
    path = data_dir / PORTS_FILE
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(kept), indent=2) + b"\n")
    temporary.replace(path)


def hold(port: int) -> socket.socket | None:
    """A socket that keeps the port from those who want any port, while a service that knows it may listen there.

    None if somebody has it, on whatever address. Nothing listens on the socket; close it once the service does.
    """
    holder = socket.socket()
    try:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("", port))
    except OSError:
        holder.close()
        return None
    return holder
