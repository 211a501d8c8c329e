"""A cluster of containers on one machine, each with the processor, memory and links of a small box."""

from __future__ import annotations
