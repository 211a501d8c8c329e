"""From a client's frame to a request that may enter the in-flight table, or the error that says why not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import isfinite

from stageline.data import Buffer, check_tensor
from stageline.errors import (
    DeadlineError,
    InvalidInputError,
    ModelNotFoundError,
    RemoteProtocolError,
    UnavailableError,
)
from stageline.plan import ModelPlan, Signature
from stageline.protocol import Infer
from stageline_gateway.batching import cut
from stageline_gateway.early import RETRY_AFTER_S
from stageline_gateway.inflight import Request
from stageline_gateway.routing import PlanView
from stageline_gateway.signature import BATCH, check_inputs, divisible, largest_batch, oversize
from stageline_gateway.whole import part_sizes

MAX_DEADLINE_S = 24 * 3600.0


def no_plan() -> UnavailableError:
    """What a request is refused with before the first plan."""
    return UnavailableError("this gateway has no plan yet: is the coordinator up?", retry_after_s=RETRY_AFTER_S)


def find_model(view: PlanView, name: str) -> ModelPlan:
    """The model's plan. Raises `ModelNotFoundError` naming those known, `UnavailableError` before the first plan."""
    if view.plan is None:
        raise no_plan()
    model = view.model(name)
    if model is None:
        known = ", ".join(view.names()) or "none yet"
        raise ModelNotFoundError(f"no model is called {name!r:.80}; known: {known:.400}")
    return model


def allowed_s(infer: Infer, default_s: float) -> float:
    """Seconds that the request may take. Raises `DeadlineError` if its time was over when it was sent."""
    if not isfinite(infer.deadline_ms):
        raise InvalidInputError(f"deadline_ms must be a number of milliseconds, got {infer.deadline_ms}")
    if infer.deadline_ms < 0:
        raise DeadlineError(f"the deadline passed {-infer.deadline_ms:.3g} ms before the request was sent")
    return min(infer.deadline_ms / 1000 if infer.deadline_ms else default_s, MAX_DEADLINE_S)


def admit(
    model: ModelPlan, owner: tuple[int, int], infer: Infer, buffers: Sequence[Buffer], arrived: float, deadline: float
) -> Request:
    """The request, inputs in the signature's order; `owner` is its client and id. Raises `InvalidInputError`."""
    order, sizes = check_inputs(model.signature, infer.inputs)
    specs = [infer.inputs[i] for i in order]
    parts = [buffers[i] for i in order]
    for spec, part in zip(specs, parts, strict=True):
        try:
            check_tensor(spec.dtype, spec.shape, memoryview(part).nbytes)
        except RemoteProtocolError as error:
            raise InvalidInputError(f"input {spec.name!r}: {error}") from None
    return Request(
        client=owner[0],
        id=owner[1],
        model=infer.model,
        manifest=model.manifest,
        inputs=tuple(specs),
        buffers=tuple(parts),
        rows=sizes.get(BATCH, 1),
        sizes=sizes,
        arrived=arrived,
        deadline=deadline,
        priority=infer.priority,
        level=infer.level,
        trace=infer.trace_id,
        want_timings=infer.want_timings,
        nbytes=sum(memoryview(part).nbytes for part in parts),
    )


def in_parts(signature: Signature, request: Request, max_batch: int) -> list[Request]:
    """The request, in parts if memory is not planned for so many items of its size at once.

    Raises `InvalidInputError` that names the limit where that does not help.
    """
    limit = largest_batch(signature, max_batch, request.sizes)
    if limit < 1:
        large = oversize(signature, request.sizes)
        sizes = ", ".join(f"{name} {request.sizes[name]} (nominal: {dim.nominal})" for name, dim in large.items())
        raise InvalidInputError(
            f"one item with {sizes} is larger than {max_batch} items of nominal size, for which memory is planned: "
            "send shorter inputs, or raise max_batch of the gateway"
        )
    known = signature.dims.get(BATCH)
    least = known.minimum if known else 1
    if request.rows <= max(limit, least):
        return [request]
    sizes_of_parts = part_sizes(request.rows, max(limit, least))
    if not divisible(signature) or min(sizes_of_parts) < least:
        raise InvalidInputError(
            f"batch must be at most {limit} at these sizes, got {request.rows}, and answers of this model cannot be "
            "joined from parts: send fewer items, or raise max_batch of the gateway"
        )
    return cut(request, sizes_of_parts)


def readmit(view: PlanView, request: Request) -> Request:
    """The request under the current plan: the model may have been replaced or removed. Raises as `admit` does."""
    model = find_model(view, request.model)
    if model.manifest == request.manifest:
        return request
    order, sizes = check_inputs(model.signature, request.inputs)
    return replace(
        request,
        manifest=model.manifest,
        inputs=tuple(request.inputs[i] for i in order),
        buffers=tuple(request.buffers[i] for i in order),
        rows=sizes.get(BATCH, 1),
        sizes=sizes,
    )
