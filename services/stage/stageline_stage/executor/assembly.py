"""An executor's parts, put together. Importing this imports torch, which takes seconds: bind the sockets before."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from stageline import logs
from stageline.messages import ExecutorHello
from stageline.passing import Passing
from stageline.plan import Endpoint
from stageline.sockets import Socket, Sockets
from stageline_stage.backends.base import Backend
from stageline_stage.backends.table import candidates
from stageline_stage.blackbox import BlackBox
from stageline_stage.executor import batches, compiling, device, hopcost, io, outbox, queue, runtime, stages, traffic
from stageline_stage.executor.compute import Computer
from stageline_stage.resources import cpu_quota, resident_bytes


@dataclass(frozen=True)
class Executor:
    """Computes in the thread that calls `run`, talks with the agent in `thread`."""

    computer: Computer
    carrier: traffic.Traffic
    loader: stages.Loader
    compiling: compiling.Compiling
    thread: io.IoThread

    def run(self) -> None:
        """Until the agent says `Stop` and what was queued is done."""
        self.thread.start()
        self.computer.run()
        self.carrier.close()
        self.loader.close()
        self.compiling.close()
        self.thread.finish()
        self.thread.join()


def set_up_device(flags: argparse.Namespace) -> torch.device:
    """The device that the flags name, ready to compute. Raises `ConfigError` if it is not there."""
    chosen = device.choose_device(flags.device)
    runtime.set_up(chosen, flags.threads)
    runtime.warm_up(chosen)
    return chosen


def backends(flags: argparse.Namespace, chosen: torch.device) -> list[Backend]:
    """Those that shall be tried for each stage, ready to load. Raises `ConfigError` for one that is not here."""
    wanted = candidates(flags.backend, chosen.type)
    for backend in wanted:
        backend.prepare()
    return wanted


def greeting(
    flags: argparse.Namespace, chosen: torch.device, endpoint: Endpoint, cost: hopcost.HopCost
) -> ExecutorHello:
    """What the agent is told of this executor; `cost` is that of messages."""
    return ExecutorHello(
        executor=flags.executor,
        pid=os.getpid(),
        endpoint=endpoint,
        fingerprint=runtime.traits(chosen, flags.threads).fingerprint,
        device=runtime.device_name(chosen),
        base_bytes=resident_bytes(os.getpid()) if chosen.type == "cpu" else 0,
        memory_bytes=runtime.device_bytes(chosen),
        backend=runtime.BACKEND,
        hop_s=cost.hop_s,
        byte_s=cost.byte_s,
    )


def message_cost(flags: argparse.Namespace, sockets: Sockets) -> hopcost.HopCost:
    """Measured now, by messages to ourselves."""
    with torch.inference_mode():
        return hopcost.measure(sockets, flags.host).on(cpu_quota())


def assemble(
    flags: argparse.Namespace, chosen: torch.device, hello: ExecutorHello, sockets: Sockets,
    local: Socket, data: Socket, wanted: Sequence[Backend], log: logs.Logger,
) -> Executor:  # fmt: skip
    """`local` leads to the agent, `data` receives batches; `wanted`: backends that may take over from torch."""
    runner, posted = device.make_runner(chosen), outbox.Outbox()
    work: queue.WorkQueue[batches.Work] = queue.WorkQueue(traffic.Bell(sockets, data).ring)
    host = traffic.Host(flags.node, flags.executor)
    carrier = traffic.Traffic(host, sockets, data, queue=work, call_io=posted.event.set, passing=Passing(), log=log)
    loaded = stages.Stages(chosen)
    wish = compiling.Wish(
        flags.backend, flags.threads, Path(flags.compiled_dir), flags.compiled_bytes, flags.crashed,
        again=bool(flags.backend_retry),
    )  # fmt: skip
    compiler = compiling.Compiling(wish, wanted, posted.post, log)
    loader = stages.Loader(loaded, posted.post, log, compiler)
    computer = Computer(
        node=flags.node, executor=flags.executor, queue=work, stages=loaded, runner=runner, traffic=carrier,
        outbox=posted, blackbox=BlackBox(flags.blackbox), log=log,
    )  # fmt: skip
    thread = io.IoThread(
        hello=hello, local=local, queue=work, computer=computer, loader=loader, runner=runner, traffic=carrier,
        outbox=posted, keyring=sockets.keyring, log=log,
    )  # fmt: skip
    return Executor(computer, carrier, loader, compiler, thread)
