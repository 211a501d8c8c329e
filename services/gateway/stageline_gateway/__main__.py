"""`stageline-gateway`: takes requests from clients and gets them answered."""

from __future__ import annotations

from stageline.config import GatewayConfig
from stageline.service_main import service_command
from stageline_gateway.service import run

main = service_command(
    GatewayConfig, run, "stageline-gateway", "Take clients' requests, batch them and send them through the stages."
)

if __name__ == "__main__":
    main()
