"""A name for everything that block times depend on, except the block: equal names share profiles."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass

from stageline.manifest import canonical_json


@dataclass(frozen=True)
class Traits:
    """What decides how fast a block runs. `libraries` are the kernels' names and versions, e.g. "mkldnn"."""

    cpu: str
    machine: str
    device: str
    backend: str
    torch_version: str
    threads: int
    cpu_quota: float
    libraries: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of all traits, as hex."""
        return hashlib.sha256(canonical_json(asdict(self))).hexdigest()
