"""The blocking client: any thread may ask, one background thread does the I/O."""

from __future__ import annotations

import random
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, TypeVar

import numpy.typing as npt

from stageline.client.core import ClientCore, InferResult, check_concurrency, read_addresses
from stageline.client.link import Link
from stageline.client.retrying import DEFAULT, NEVER, Retry
from stageline.client.security import Security
from stageline.client.session import Session
from stageline.client.tensors import to_wire
from stageline.errors import StagelineError
from stageline.protocol import ModelInfo, ServerHello
from stageline.tls import TlsOption

CONNECT_S = 5.0

T = TypeVar("T")


class Client:
    """A client of one gateway, or of several that stand in for each other; thread-safe.

    Use it as a context manager, or `close` it. It connects to the first of `addresses` that answers, and when that
    connection breaks to the next, for as long as `retry` allows (None: nothing is tried again, and a request fails with
    its connection). Raises `ConnectionLostError` when no gateway can be reached, `AuthenticationError` when one asks
    for a token and there is none, or does not prove who it is.

    `token` is for gateways that ask for one. `tls`: True, a `stageline.Tls` or an `ssl.SSLContext` to speak TLS, as is
    done with addresses like ``tls://host:7710`` in any case; False for never. What is left out comes from the
    environment (``STAGELINE_TOKEN``, ``STAGELINE_TOKEN_FILE``, ``STAGELINE_CA_FILE``, …). A token passes no network in
    the clear unless `tls` is False: that raises `ConfigError`.

    What `retry` repeats carries an idempotency key: a gateway that has the request in hand, or keeps its answer,
    does not compute it again. Another gateway knows nothing of that.
    """

    def __init__(
        self, addresses: str | Sequence[str] = "127.0.0.1:7710", *, name: str = "", token: str | None = None,
        tls: TlsOption = None, user: str = "", connect_timeout_s: float = CONNECT_S, retry: Retry | None = DEFAULT,
    ) -> None:  # fmt: skip
        policy = retry or NEVER
        security = Security(token, tls)
        self._session = Session(policy, secrets.token_hex(8), random.random)
        self._link = Link(
            read_addresses(addresses),
            lambda: ClientCore(name=name or "python", token=security.token, user=user),
            self._session,
            policy,
            connect_timeout_s,
            security,
        )

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
        idempotency_key: str = "",
    ) -> InferResult:
        """Run `model` and wait for the answer. Dimension 0 of each input is the batch; lower `priority` goes first.

        `idempotency_key` is for those who ask again after their own restart; leave it out otherwise. Raises one of
        `stageline.errors.RequestError`, `ModelNotFoundError` or `ConnectionLostError`.
        """
        return self._wait(
            self._ask(
                model, inputs, priority=priority, deadline_s=deadline_s, trace_id=trace_id,
                idempotency_key=idempotency_key,
            )
        )  # fmt: skip

    def submit(
        self,
        model: str,
        inputs: Mapping[str, npt.ArrayLike],
        *,
        priority: int = 0,
        deadline_s: float | None = None,
        trace_id: str = "",
        idempotency_key: str = "",
    ) -> Future[InferResult]:
        """Ask without waiting; the inputs are copied. Cancelling the future cancels the request at the gateway."""
        return self._ask(
            model, inputs, priority=priority, deadline_s=deadline_s, trace_id=trace_id,
            idempotency_key=idempotency_key, copy=True,
        )  # fmt: skip

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
        check_concurrency(concurrency)
        waiting: deque[Future[InferResult]] = deque()
        source = iter(batches)
        done = 0
        try:
            while True:
                while len(waiting) < concurrency and (inputs := next(source, None)) is not None:
                    waiting.append(self.submit(model, inputs, priority=priority, deadline_s=deadline_s))
                if not waiting:
                    return
                outcome = self._outcome(waiting.popleft())
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
        future: Future[dict[str, ModelInfo]] = self._link.ask(lambda now: self._session.describe(model, now, timeout_s))
        return self._wait(future)

    def close(self) -> None:
        """Close the connection; what is not answered fails with `ConnectionLostError`."""
        self._link.close()

    def _ask(
        self, model: str, inputs: Mapping[str, npt.ArrayLike], *, copy: bool = False, **how: Any
    ) -> Future[InferResult]:
        tensors = to_wire(inputs, copy=copy)
        return self._link.ask(lambda now: self._session.infer(model, tensors, now, **how))

    def _outcome(self, future: Future[InferResult]) -> InferResult | StagelineError:
        try:
            return self._wait(future)
        except StagelineError as error:
            return error

    @staticmethod
    def _wait(future: Future[T]) -> T:
        """Its outcome, which the session's timers bound; an interrupted wait cancels the request."""
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise
