"""torch.distributed.pipelining over gloo: four ranks in a chain, a source, two identity stages and a sink.

Three hops of the wire, as for the others. The ranks stand by between runs. With one item in flight the sink sends the
source a byte back, so that the source knows when to go on.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import warnings

RANKS = 4
MICROBATCHES = 32


class Gloo:
    """The driver's side: tells every rank what to run, over a pipe, and gets the sink's seconds."""

    name = "torch-pipelining"
    transport = "torch.distributed.pipelining (GPipe, forward only), gloo over TCP"

    def __init__(self) -> None:
        self._ranks: list[subprocess.Popen[str]] = []

    def start(self) -> None:
        environ = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
        for rank in range(RANKS):
            command = [sys.executable, __file__]
            env = {**environ, "RANK": str(rank), "WORLD_SIZE": str(RANKS)}
            self._ranks.append(
                subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
        for process in self._ranks:
            _line(process)

    def run(self, nbytes: int, window: int, items: int) -> float:
        chunk = 1 if window == 1 else MICROBATCHES
        steps = max(1, round(items / chunk))
        for rank in self._ranks:
            assert rank.stdin is not None
            rank.stdin.write(f"{nbytes} {chunk} {steps}\n")
            rank.stdin.flush()
        seconds = max(float(_line(rank)) for rank in self._ranks)
        return seconds * items / (steps * chunk)

    def stop(self) -> None:
        for rank in self._ranks:
            if rank.stdin is not None:
                rank.stdin.close()
        for rank in self._ranks:
            rank.wait(30)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError("a rank of torch.distributed.pipelining ended")
    return line


def work() -> None:
    """One rank: a line in is a run, a line out the seconds it took."""
    import torch
    import torch.distributed as dist
    from torch.distributed.pipelining import PipelineStage, ScheduleGPipe

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, device = dist.get_rank(), torch.device("cpu")
    byte = torch.zeros(1, dtype=torch.uint8)
    made: dict[tuple[int, int], ScheduleGPipe] = {}

    def schedule(nbytes: int, chunk: int) -> ScheduleGPipe:
        if (nbytes, chunk) not in made:
            example = torch.zeros(1, nbytes // 4)
            stage = PipelineStage(torch.nn.Identity(), rank, RANKS, device, input_args=example, output_args=example)
            made[nbytes, chunk] = ScheduleGPipe(stage, chunk)
        return made[nbytes, chunk]

    _reply("ready")
    with torch.no_grad():
        for line in sys.stdin:
            nbytes, chunk, steps = map(int, line.split())
            pipeline, given = schedule(nbytes, chunk), torch.zeros(chunk, nbytes // 4)
            dist.barrier()
            begun = time.perf_counter()
            for _ in range(steps):
                pipeline.eval(*([given] if rank == 0 else []))
                if chunk == 1 and rank == 0:
                    dist.recv(byte, RANKS - 1)
                elif chunk == 1 and rank == RANKS - 1:
                    dist.send(byte, 0)
            _reply(str(time.perf_counter() - begun))
    dist.destroy_process_group()


def _reply(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    work()
