"""The blocking client: any thread may ask, one background thread does the I/O."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from types import TracebackType
from typing import Any, TypeVar

import numpy.typing as npt

from stageline.client.core import ClientCore, InferResult
from stageline.client.link import Link
from stageline.errors import DeadlineError, StagelineError
from stageline.protocol import ModelInfo, ServerHello

CONNECT_S = 5.0

T = TypeVar("T")


class Client:
    """A connection to a gateway; thread-safe, use it as a context manager or `close` it.

    Raises `ConnectionLostError` when there is no gateway at `address`, and whenever the connection breaks: every
    request that is not answered then fails with it. A new `Client` is needed after that.
    """

    def __init__(
        self, address: str = "127.0.0.1:7710", *, name: str = "", token: str = "", user: str = "",
        connect_timeout_s: float = CONNECT_S,
    ) -> None:  # fmt: skip
        self._core = ClientCore(name=name or "python", token=token, user=user)
        self._link = Link(address, self._core, connect_timeout_s)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def server(self) -> ServerHello:
        """What the gateway said about itself."""
        return self._link.hello

    def infer(
        self,
        model: str,
        inputs: Mapping[str, npt.ArrayLike],
        *,
        priority: int = 0,
        deadline_s: float | None = None,
        trace_id: str = "",
    ) -> InferResult:
        """Run `model` and wait for the answer. Dimension 0 of each input is the batch; lower `priority` goes first.

        Raises one of `stageline.errors.RequestError`, `ModelNotFoundError` or `ConnectionLostError`.
        """
        future: Future[InferResult] = self._link.ask(
            lambda: self._core.infer(model, inputs, priority=priority, deadline_s=deadline_s, trace_id=trace_id)
        )
        return self._wait(future, self._core.patience(deadline_s))

    def submit(
        self,
        model: str,
        inputs: Mapping[str, npt.ArrayLike],
        *,
        priority: int = 0,
        deadline_s: float | None = None,
        trace_id: str = "",
    ) -> Future[InferResult]:
        """Ask without waiting; the inputs are copied. Cancelling the future cancels the request at the gateway."""
        return self._link.ask(
            lambda: self._core.infer(model, inputs, priority=priority, deadline_s=deadline_s, trace_id=trace_id),
            copy=True,
        )

    def infer_many(
        self,
        model: str,
        batches: Iterable[Mapping[str, npt.ArrayLike]],
        *,
        concurrency: int = 16,
        priority: int = 0,
        deadline_s: float | None = None,
        progress: Callable[[int], None] | None = None,
        return_errors: bool = False,
    ) -> Iterator[Any]:
        """The results in the order of `batches`, with up to `concurrency` requests under way.

        `progress` is called with the number answered so far. An error is raised when its turn comes, or yielded in
        place of the result with `return_errors`.
        """
        waiting: deque[Future[InferResult]] = deque()
        source = iter(batches)
        done = 0
        try:
            while True:
                while len(waiting) < max(1, concurrency) and (inputs := next(source, None)) is not None:
                    waiting.append(self.submit(model, inputs, priority=priority, deadline_s=deadline_s))
                if not waiting:
                    return
                outcome = self._outcome(waiting.popleft(), self._core.patience(deadline_s))
                if isinstance(outcome, StagelineError) and not return_errors:
                    raise outcome
                done += 1
                if progress is not None:
                    progress(done)
                yield outcome
        finally:
            for future in waiting:
                future.cancel()

    def describe(self, model: str | None = None, *, timeout_s: float = 10.0) -> dict[str, ModelInfo]:
        """The gateway's models by name, or only `model`. Raises `ModelNotFoundError`."""
        future: Future[dict[str, ModelInfo]] = self._link.ask(lambda: self._core.describe(model))
        return self._wait(future, timeout_s)

    def close(self) -> None:
        """Close the connection; what is not answered fails with `ConnectionLostError`."""
        self._link.close()

    def _outcome(self, future: Future[InferResult], timeout_s: float) -> InferResult | StagelineError:
        try:
            return self._wait(future, timeout_s)
        except StagelineError as error:
            return error

    @staticmethod
    def _wait(future: Future[T], timeout_s: float) -> T:
        try:
            return future.result(timeout_s)
        except FutureTimeoutError:
            with contextlib.suppress(Exception):
                future.cancel()
            raise DeadlineError(f"the gateway did not answer within {timeout_s:.3g} s: is it overloaded?") from None
