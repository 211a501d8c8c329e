"""Stageline: serves neural networks on a cluster of small boxes that none of them could serve alone.

The clients are loaded on first use (PEP 562), so that services start without numpy.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stageline.client import AsyncClient as AsyncClient
    from stageline.client import Client as Client
    from stageline.client import InferResult as InferResult
    from stageline.client import Retry as Retry
    from stageline.client import Tls as Tls

__version__ = metadata.version("stageline")
__all__ = ["AsyncClient", "Client", "InferResult", "Retry", "Tls", "__version__"]


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(import_module("stageline.client"), name)
    raise AttributeError(f"module 'stageline' has no attribute {name!r}")
