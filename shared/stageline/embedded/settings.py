"""What environment and file say about the services of an embedded cluster, of which several may share a section."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from stageline.config import SECTIONS, given
from stageline.embedded.state import ServiceRole
from stageline.errors import ConfigError

SHARED = ("port", "http_port", "data_port")
"""Ports that more than one service has."""

Given = dict[ServiceRole, dict[str, Any]]


def given_settings(config: Path | None, nodes: int, environ: Mapping[str, str] = os.environ) -> Given:
    """What is not left to its default, by role.

    Raises `ConfigError`, as a service would, and for one port that several processes would have to listen on.
    """
    for name in SHARED:
        variable = f"STAGELINE_{name.upper()}"
        if environ.get(variable, "0") != "0":
            raise ConfigError(
                f"{variable} is one port for several services of the cluster: unset it, or give each its own with "
                "--config"
            )
    found: Given = {role: given(SECTIONS[role], environ=environ, file=config) for role in get_args(ServiceRole)}
    if nodes > 1 and found["stage"].get("data_address"):
        raise ConfigError(f"stage.data_address is one address for {nodes} workers: leave it out, or use --nodes 1")
    return found


def worker_settings(stage: Mapping[str, Any], number: int, name: str, usual: Path) -> dict[str, Any]:
    """What each of several workers has for itself: the ports that are given plus its number, a cache of its own.

    `usual` is the directory below which its cache lies where none is given.
    """
    ports = {port: stage[port] + number for port in ("http_port", "data_port") if stage.get(port)}
    cache = stage["cache_dir"].absolute() / name if "cache_dir" in stage else usual / name / "cache"
    return {**ports, "cache_dir": cache}
