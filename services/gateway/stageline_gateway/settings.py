"""What the decisions depend on; times in seconds, sizes in bytes. The service fills it from its `GatewayConfig`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """See `stageline.config.GatewayConfig` for the meaning of each; `window` 0 means two batches per stage."""

    max_in_flight: int = 4096
    max_in_flight_bytes: int = 1 << 30
    max_batch: int = 8
    batch_delay_s: float = 0.002
    window: int = 0
    window_bytes: int = 64 << 20
    default_deadline_s: float = 60.0
    max_attempts: int = 8
    drain_s: float = 10.0
    answer_keep_s: float = 60.0
    answer_keep_bytes: int = 32 << 20
    journal: bool = False
