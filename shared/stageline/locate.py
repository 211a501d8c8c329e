"""Which cluster a command means: flags, then the environment, then the newest one that `stageline up` runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stageline.embedded.state import ClusterState, find, running
from stageline.errors import NoClusterError

COORDINATOR_VARIABLE = "STAGELINE_COORDINATOR"
GATEWAY_VARIABLE = "STAGELINE_GATEWAY"


@dataclass(frozen=True)
class Location:
    """Where a cluster is: addresses, empty where unknown; `state` if it is an embedded one of this machine.

    `gateways` stand in for each other, the first is tried first. `keys`: the directory of an administrator's keys.
    """

    coordinator: str = ""
    gateways: tuple[str, ...] = ()
    state: ClusterState | None = None
    keys: Path | None = None

    @property
    def control(self) -> str:
        """The coordinator's address; `NoClusterError` where unknown."""
        if not self.coordinator:
            raise NoClusterError("the coordinator's address is not known: name it with --coordinator")
        return self.coordinator


def locate(
    *, coordinator: str | None, gateways: Sequence[str], data_dir: Path | None, environ: Mapping[str, str]
) -> Location:
    """The cluster that the flags name, or else the environment, or else the newest that runs.

    Each of `gateways` may be several addresses, separated by commas.
    Raises `NoClusterError` when there is none.
    """
    named = split_addresses(gateways)
    if data_dir is not None:
        state = find(data_dir.absolute())
        if state is None or not state.usable:
            raise NoClusterError(f"no cluster runs on {data_dir}: start it with `stageline up --data-dir {data_dir}`")
        return Location(
            coordinator or state.coordinator, named or split_addresses([state.gateway]), state, state.admin_keys
        )
    if not coordinator and not named:
        coordinator, named = environ.get(COORDINATOR_VARIABLE), split_addresses([environ.get(GATEWAY_VARIABLE, "")])
    if coordinator or named:
        state = _state_of(coordinator or "")
        return Location(coordinator or "", named, state, state.admin_keys if state else None)
    newest = next((state for state in running() if state.usable), None)
    if newest is None:
        raise NoClusterError("no running cluster: start one with `stageline up`, or name one with --coordinator")
    return Location(newest.coordinator, split_addresses([newest.gateway]), newest, newest.admin_keys)


def split_addresses(texts: Iterable[str]) -> tuple[str, ...]:
    """The addresses in texts like ``one:7710,two:7710``."""
    parts = (part.strip() for text in texts for part in text.split(","))
    return tuple(part for part in parts if part)


def _state_of(coordinator: str) -> ClusterState | None:
    named = set(split_addresses([coordinator]))
    return next((state for state in running() if named & set(split_addresses([state.coordinator]))), None)
