"""Measuring a cluster under load: when to send, what came of it, inputs to send, and the thin shell that does it."""

from __future__ import annotations
