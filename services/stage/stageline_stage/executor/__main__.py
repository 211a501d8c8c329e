"""Start of an executor; only an agent starts one. It binds its sockets, imports torch, then computes."""

from __future__ import annotations

import argparse
import signal
import sys

from stageline import logs
from stageline.errors import ConfigError
from stageline.lifecycle import EXIT_USAGE, die_with_parent
from stageline.messages import LOCAL
from stageline.sockets import Sockets
from stageline_stage import keypipe
from stageline_stage.executor.memory import settle, tune_malloc

PORT_PATIENCE_S = 5.0
"""An executor whose agent was killed may hold the data port still; longer is a wrong setting."""


def parse(arguments: list[str]) -> argparse.Namespace:
    """The flags that the agent gives."""
    parser = argparse.ArgumentParser(prog="stageline-executor", description=__doc__)
    for flag in ("--agent", "--executor", "--node", "--host", "--transport", "--device", "--log-level", "--log-format"):
        parser.add_argument(flag, required=True)
    for flag in ("--threads", "--parent", "--blackbox"):
        parser.add_argument(flag, required=True, type=int)
    parser.add_argument("--backend", default="eager")
    parser.add_argument("--compiled-dir", default="")
    for flag in ("--backend-retry", "--compiled-bytes", "--crashed"):
        parser.add_argument(flag, default=0, type=int)
    parser.add_argument("--data-port", type=int, default=0)
    parser.add_argument("--data-address", default="")
    parser.add_argument("--checksum", default="auto")
    parser.add_argument("--advertised", default="")
    parser.add_argument("--keyed", type=int, default=0)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Serve until the agent says `Stop`."""
    flags = parse(arguments)
    die_with_parent(flags.parent)
    tune_malloc()
    for number in (signal.SIGINT, signal.SIGTERM):  # they reach the whole group; the agent decides
        signal.signal(number, signal.SIG_IGN)
    log = logs.configure(
        service="executor", level=flags.log_level, style=flags.log_format, node=flags.node, executor=flags.executor
    )
    sockets = None
    try:
        keyring = keypipe.read(sys.stdin.buffer) if flags.keyed else None
        sockets = Sockets(flags.transport, keyring, advertised=flags.advertised)
        serve(flags, sockets, log)
    except ConfigError as error:
        sys.stderr.write(f"stageline-stage: {error}\n")
        raise SystemExit(EXIT_USAGE) from None
    finally:
        if sockets is not None:
            sockets.close()


def serve(flags: argparse.Namespace, sockets: Sockets, log: logs.Logger) -> None:
    """Set everything up and compute until told to stop."""
    data, endpoint = sockets.bind_data(
        flags.host,
        port=flags.data_port,
        reached_at=flags.data_address,
        checksum=flags.checksum,
        patience_s=PORT_PATIENCE_S,
    )
    local = sockets.connect(LOCAL, flags.agent, identity=flags.executor.encode())

    # Imports torch, which takes seconds: the sockets are bound before.
    from stageline_stage.executor import assembly

    chosen = assembly.set_up_device(flags)
    backends = assembly.backends(flags, chosen)
    cost = assembly.message_cost(flags, sockets)
    settle()
    hello = assembly.greeting(flags, chosen, endpoint, cost)
    executor = assembly.assemble(flags, chosen, hello, sockets, local, data, backends, log)
    log.info("executor is up", device=hello.device, address=endpoint.tcp)
    executor.run()


if __name__ == "__main__":
    main(sys.argv[1:])
