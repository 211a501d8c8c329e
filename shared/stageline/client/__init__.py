"""Python clients of the native protocol: `Client` (blocking, thread-safe) and `AsyncClient` (asyncio)."""

from __future__ import annotations

from stageline.client.asynchronous import AsyncClient
from stageline.client.core import InferResult
from stageline.client.retrying import Retry
from stageline.client.sync import Client
from stageline.tls import Tls

__all__ = ["AsyncClient", "Client", "InferResult", "Retry", "Tls"]
