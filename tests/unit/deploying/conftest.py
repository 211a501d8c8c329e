"""A site of three boxes, and engines in memory that behave as Docker's do."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
