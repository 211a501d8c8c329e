"""torch.distributed.pipelining over gloo, two ranks, with the very stages that Stageline runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from stageline.blobs import BlobStore
from stageline.blocks import ValueSpec
from stageline.manifest import ModelManifest, canonical_json

MICROBATCHES = 8


class GlooStages:
    """Two ranks, each with one stage of the model, loaded from its blobs."""

    transport = "torch.distributed.pipelining (GPipe, forward only), gloo over TCP, eager torch"

    def __init__(self, folder: Path, manifest: ModelManifest, cut: int, batch: int) -> None:
        sha = BlobStore(folder).put_bytes(canonical_json(manifest.to_json()))
        self._jobs = [
            {
                "store": str(folder),
                "manifest": sha,
                "blocks": blocks,
                "given": [_sizes(value, batch) for value in manifest.blocks[blocks[0]].inputs],
            }
            for blocks in ((0, cut), (cut, len(manifest.blocks)))
        ]
        self._ranks: list[subprocess.Popen[str]] = []

    def start(self) -> None:
        """Load the stages."""
        from contenders.gloo import free_port

        shared = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
            "WORLD_SIZE": "2",
            "OMP_NUM_THREADS": "1",
        }
        for rank, job in enumerate(self._jobs):
            env = {**os.environ, **shared, "RANK": str(rank)}
            command = [sys.executable, __file__, json.dumps(job)]
            self._ranks.append(
                subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
        for process in self._ranks:
            self._line(process)

    def run(self, items: int) -> tuple[float, list[float]]:
        """Items per second, and the mean seconds that each stage computed."""
        steps = max(2, round(items / MICROBATCHES))
        for rank in self._ranks:
            assert rank.stdin is not None
            rank.stdin.write(f"{steps}\n")
            rank.stdin.flush()
        replies = [json.loads(self._line(rank)) for rank in self._ranks]
        return replies[-1]["items_per_s"], [reply["compute_s"] for reply in replies]

    def stop(self) -> None:
        """End both ranks."""
        for rank in self._ranks:
            if rank.stdin is not None:
                rank.stdin.close()
        for rank in self._ranks:
            rank.wait(30)

    def _line(self, process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError("a rank of torch.distributed.pipelining ended")
        return line


def _sizes(value: ValueSpec, batch: int) -> list[int]:
    if value.kind != "tensor":
        raise RuntimeError(f"{value.name} is not a tensor: gloo pipelining cannot carry it")
    return [size if isinstance(size, int) else batch for size in value.dims]


def work(job: dict[str, Any]) -> None:
    """One rank."""
    import torch
    import torch.distributed as dist
    from torch.distributed.pipelining import PipelineStage, ScheduleGPipe

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()

    class Timed(torch.nn.Module):
        """Counts the seconds of every call."""

        def __init__(self, stage: Any) -> None:
            super().__init__()
            self.stage, self.seconds, self.ends = stage, 0.0, list[float]()

        def forward(self, *values: torch.Tensor) -> Any:
            begun = time.perf_counter()
            outputs = self.stage(*values)
            self.ends.append(time.perf_counter())
            self.seconds += self.ends[-1] - begun
            return outputs[0] if len(outputs) == 1 else outputs

    with torch.no_grad():
        timed = Timed(load(job))
        given = tuple(torch.randn(shape) for shape in job["given"])
        outputs = timed(*given)
        stage = PipelineStage(timed, rank, 2, torch.device("cpu"), input_args=given, output_args=outputs)
        pipeline = ScheduleGPipe(stage, MICROBATCHES)
        batch = torch.cat([given[0]] * MICROBATCHES)
        _reply("ready")
        for line in sys.stdin:
            dist.barrier()
            timed.seconds, timed.ends = 0.0, []
            for _ in range(int(line)):
                pipeline.eval(*([batch] if rank == 0 else []))
            ends = timed.ends[MICROBATCHES:]
            rate = (len(ends) - 1) / (ends[-1] - ends[0])
            _reply(json.dumps({"items_per_s": rate, "compute_s": timed.seconds / len(timed.ends)}))
    dist.destroy_process_group()


def load(job: dict[str, Any]) -> Any:
    """The stage, from the same graphs and tensors as an executor's."""
    from stageline_stage.graph.rebuild import load_stage
    from stageline_stage.tensorfile import load_tensor

    store = BlobStore(Path(job["store"]))
    manifest = ModelManifest.from_json(json.loads(store.read(job["manifest"])))
    blocks = manifest.blocks[slice(*job["blocks"])]
    tensors = {t.sha256: load_tensor(store.path(t.sha256)) for block in blocks for t in block.tensors}
    return load_stage([store.read(block.graph) for block in blocks], tensors)


def _reply(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    work(json.loads(sys.argv[1]))
