"""Joining requests into a batch and cutting its result: bytes only, no arithmetic on their content."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from stageline.data import Buffer, Tensor
from stageline.dtypes import ITEMSIZE
from stageline.plan import Epoch, ModelPlan, Replica, ValueSpec
from stageline.protocol import TensorSpec
from stageline_gateway.inflight import Request
from stageline_gateway.signature import BATCH

Path = tuple[Replica, ...]
"""One replica for each stage."""


@dataclass
class Batch:
    """A dispatched batch. `live` while its credits are held: until its result, a failure, or it is given up.

    `pending` are the requests that it may still answer, a subset of `keys`; `rank` is its place in executors' queues;
    `overtaken` counts later ones that are back while it is not; `over`: no executor has it any more.
    """

    id: int
    model: ModelPlan
    epoch: Epoch
    keys: tuple[int, ...]
    rows: tuple[int, ...]
    sizes: dict[str, int]
    path: Path
    nbytes: int
    sent: float
    overdue_at: float
    rank: tuple[int, float]
    overtaken: int = 0
    live: bool = True
    over: bool = False
    pending: set[int] = field(default_factory=set)


def shape_group(request: Request) -> Hashable:
    """Equal for requests that may share a batch."""
    return (request.level, *(spec.shape[1:] for spec in request.inputs))


def fair_share(items: int, stages: int) -> int:
    """How many items a batch may hold so that the pipeline stays full, of `items` that wait or are in flight.

    One batch with everything in it would keep one stage busy and let the others wait for it.
    """
    return -(-items // max(1, stages))


def cut(request: Request, sizes: Sequence[int]) -> list[Request]:
    """The request in parts of so many items each; their bytes are not copied."""
    parts: list[Request] = []
    start = 0
    for rows in sizes:
        inputs = tuple(TensorSpec(spec.name, spec.dtype, (rows, *spec.shape[1:])) for spec in request.inputs)
        buffers = tuple(_items(part, request.rows, start, rows) for part in request.buffers)
        nbytes = sum(view.nbytes for view in buffers)
        known = {**request.sizes, BATCH: rows}
        parts.append(replace(request, inputs=inputs, buffers=buffers, rows=rows, sizes=known, nbytes=nbytes))
        start += rows
    return parts


def _items(buffer: Buffer, total: int, start: int, rows: int) -> memoryview:
    view = memoryview(buffer).cast("B") if len(buffer) else memoryview(b"")
    item = view.nbytes // total
    return view[start * item : (start + rows) * item]


def join(requests: Sequence[Request]) -> tuple[tuple[Tensor, ...], list[Buffer]]:
    """The tensors of the batch and their bytes; a single request's bytes are passed on uncopied."""
    first = requests[0]
    if len(requests) == 1:
        return tuple(Tensor(spec.dtype, spec.shape) for spec in first.inputs), list(first.buffers)
    tensors: list[Tensor] = []
    buffers: list[Buffer] = []
    rows = sum(r.rows for r in requests)
    for i, spec in enumerate(first.inputs):
        tensors.append(Tensor(spec.dtype, (rows, *spec.shape[1:])))
        buffers.append(b"".join(r.buffers[i] for r in requests))
    return tuple(tensors), buffers


def split(
    specs: Sequence[ValueSpec], tensors: Sequence[Tensor], buffers: Sequence[Buffer], start: int, rows: int
) -> tuple[tuple[TensorSpec, ...], list[memoryview]]:
    """The outputs of items half-open [start, start + rows). An output without a batch dimension is given whole."""
    named: list[TensorSpec] = []
    parts: list[memoryview] = []
    for spec, tensor, buffer in zip(specs, tensors, buffers, strict=True):
        view = memoryview(buffer).cast("B") if len(buffer) else memoryview(b"")
        shape = tensor.shape
        if spec.dims and spec.dims[0] == BATCH:
            item = prod(shape[1:]) * ITEMSIZE[tensor.dtype]
            view = view[start * item : (start + rows) * item]
            shape = (rows, *shape[1:])
        named.append(TensorSpec(spec.name, tensor.dtype, shape))
        parts.append(view)
    return tuple(named), parts


def batch_cost(model: ModelPlan, input_bytes: int, rows: int) -> int:
    """Bytes that a batch holds in flight: its largest form on the way, inputs and every stage's output considered."""
    return max(input_bytes, *(stage.output_bytes * rows for stage in model.stages), 1)


SLOW_LINK_BYTES_PER_S = 1_000_000
"""A link that is taken to be slower than this would make every batch look overdue."""


def patience(model: ModelPlan, rows: int, ahead: int, attempt: int) -> float:
    """Seconds after which a batch is overdue and is sent again, to be safe: the first result wins anyhow.

    Ten times the estimate for it and the batches ahead of it, at least 2 s, plus what its bytes take on a slow link;
    doubled at each attempt, so that an overloaded cluster is not loaded further.
    """
    computing = sum(stage.compute_s for stage in model.stages) * rows
    moved = (model.input_bytes + sum(stage.output_bytes for stage in model.stages)) * rows
    estimate = max(2.0, 10 * computing * (1 + ahead)) + moved * (1 + ahead) / SLOW_LINK_BYTES_PER_S
    return float(estimate * 2 ** max(0, attempt - 1))
