"""What cannot be in time: not admitted, and not dispatched."""

from __future__ import annotations

from stageline.errors import DeadlineError, RejectedError
from stageline_gateway.core import Core
from stageline_gateway.inflight import Entry, Request

HEADROOM = 1.3
"""What is admitted should be answered in this part of the time that it has, for the worker may slow down meanwhile."""


def check_in_time(core: Core, request: Request, now: float) -> None:
    """Raises `RejectedError` when too much waits before the request for it to be answered in time.

    As long as nothing waits, or nobody knows how fast it goes, the request is given its chance.
    """
    queue, capacity = core.queues.get(request.model), core.capacity(request.model)
    model = core.view.model(request.model)
    if queue is None or not capacity.item_s or model is None or core.view.obstacle(model):
        return
    allowed = request.deadline - now
    if capacity.expected_s(queue.rows) * HEADROOM <= allowed:
        return
    ahead = queue.rows_before((request.priority, request.deadline, core.table.last + 1))
    expected = capacity.expected_s(ahead)
    if ahead and expected * HEADROOM > allowed:
        text = (
            f"{ahead} items wait before the request, and it would be answered in about {expected:.2g} s, "
            f"too close to its deadline of {allowed:.3g} s: try again later, or another gateway"
        )
        raise RejectedError(text, retry_after_s=capacity.retry_after_s(ahead))


def too_late(core: Core, entry: Entry, now: float) -> DeadlineError | None:
    """Why a request need not be dispatched any more: even the quickest of late would be past its deadline.

    While others wait, it makes room for them when it would usually be late. While nothing is on its way it is
    dispatched all the same: how else would one learn that it goes faster now?
    """
    request, capacity = entry.request, core.capacity(entry.request.model)
    others = core.waiting(request.model) > request.rows
    needed, left = capacity.usual_s if others else capacity.shortest_s, request.deadline - now
    if left >= needed or not core.batches.items(request.model):
        return None
    allowed = request.deadline - request.arrived
    text = f"the deadline of {allowed:.3g} s will pass: {left:.2g} s are left, and computing takes {needed:.2g} s"
    return DeadlineError(text)
