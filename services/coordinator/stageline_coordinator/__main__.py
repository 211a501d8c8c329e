"""``stageline-coordinator``, and ``python -m stageline_coordinator``."""

from __future__ import annotations

from stageline.config import CoordinatorConfig
from stageline.service_main import service_command

from .service import run

main = service_command(
    CoordinatorConfig,
    run,
    "stageline-coordinator",
    "Know the cluster's nodes and models, plan who serves what, and tell everyone.",
)

if __name__ == "__main__":
    main()
