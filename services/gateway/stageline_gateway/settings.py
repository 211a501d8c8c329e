"""What the decisions depend on; times in seconds, sizes in bytes. `settings_of` makes it from a `GatewayConfig`."""

from __future__ import annotations

from dataclasses import dataclass

from stageline.config import GatewayConfig


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
    hold_s: float = 5.0


def settings_of(config: GatewayConfig) -> Settings:
    """Those of a gateway that is configured so."""
    return Settings(
        max_in_flight=config.max_in_flight,
        max_in_flight_bytes=config.max_in_flight_bytes,
        max_batch=config.max_batch,
        batch_delay_s=config.batch_delay_ms / 1000,
        window=config.window,
        window_bytes=config.window_bytes,
        default_deadline_s=config.default_deadline_ms / 1000,
        max_attempts=config.max_attempts,
        drain_s=config.drain_s,
        answer_keep_s=config.answer_keep_s,
        answer_keep_bytes=config.answer_keep_bytes,
        journal=config.journal is not None,
        hold_s=config.hold_s,
    )
