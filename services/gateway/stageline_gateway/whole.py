"""The answer of a request that was cut into parts, because memory is not planned for a batch of all its items."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from stageline.data import Buffer
from stageline.errors import FailedError, UnavailableError
from stageline.protocol import Result, TensorSpec
from stageline_gateway.capacity import SOONEST_S


class Whole:
    """Collects the answers of `count` parts, which come in any order."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._answers: dict[int, tuple[Result, Sequence[Buffer]]] = {}
        self._manifest = ""

    def take(
        self, number: int, manifest: str, result: Result, buffers: Sequence[Buffer]
    ) -> tuple[Result, list[Buffer]] | None:
        """The joined answer once every part has one. `manifest` is the model's that computed this part.

        The attempts and the batch are the largest of any part, the timings those of the part that came last.
        Raises `UnavailableError` if the model was replaced in between, `FailedError` for what cannot be joined.
        """
        if self._manifest not in ("", manifest):
            text = "the model was replaced while parts of the request were computed: ask again"
            raise UnavailableError(text, retry_after_s=SOONEST_S)
        self._manifest = manifest
        self._answers[number] = (result, buffers)
        if len(self._answers) < self._count:
            return None
        answers = [self._answers[i] for i in range(self._count)]
        results = [one for one, _ in answers]
        joined = msgspec.structs.replace(
            result,
            outputs=tuple(_joined(specs) for specs in zip(*(one.outputs for one in results), strict=True)),
            batch=max(one.batch for one in results),
            attempts=max(one.attempts for one in results),
        )
        return joined, [b"".join(parts) for parts in zip(*(parts for _, parts in answers), strict=True)]


def part_sizes(rows: int, limit: int) -> list[int]:
    """As few parts as possible of at most `limit` items, as equal as possible."""
    count = -(-rows // limit)
    least, more = divmod(rows, count)
    return [least + 1] * more + [least] * (count - more)


def _joined(specs: Sequence[TensorSpec]) -> TensorSpec:
    first = specs[0]
    if len({spec.shape[1:] for spec in specs}) > 1:
        raise FailedError(
            f"output {first.name!r} has another shape for some of the items, so that their answers cannot be joined: "
            "send fewer items at once"
        )
    return TensorSpec(first.name, first.dtype, (sum(spec.shape[0] for spec in specs), *first.shape[1:]))
