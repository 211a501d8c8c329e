"""`stageline-stage`: one per box; joins the cluster and computes what it is told to."""

from __future__ import annotations

from stageline import logs
from stageline.config import StageConfig
from stageline.joining import advertised_host, node_keyring
from stageline.service_main import service_command
from stageline.sockets import Sockets
from stageline_stage.agent import Agent, check_device


def run(config: StageConfig) -> None:
    """Serve as a stage worker until SIGTERM."""
    log = logs.configure(service="stage", level=config.log_level, style=config.log_format, node=config.name)
    check_device(config.device)
    advertised = advertised_host(config.host, config.advertise_host, config.coordinator)
    sockets = Sockets(config.transport, node_keyring(config), advertised=advertised)
    try:
        Agent(config, sockets, log).run()
    finally:
        sockets.close()


main = service_command(
    StageConfig, run, "stageline-stage", "Run a stage worker: it joins the cluster and computes what it is told to."
)

if __name__ == "__main__":
    main()
