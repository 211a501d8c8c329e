"""The asyncio client."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy.typing as npt

from stageline.client.core import ClientCore, Finished, InferResult, check_concurrency, read_addresses
from stageline.client.retrying import DEFAULT, NEVER, Dialer, Retry
from stageline.client.security import Security
from stageline.client.session import Call, Ended, Session, closed_error
from stageline.client.tensors import to_wire
from stageline.client.wire import Wire, open_wire
from stageline.errors import ConnectionLostError, StagelineError
from stageline.protocol import ModelInfo, ServerHello
from stageline.tls import TlsOption

CONNECT_S = 5.0


class AsyncClient:
    """As `Client`, for one event loop: ``async with AsyncClient(address) as client``.

    `connect` (or entering the context) tries each address once, and raises `ConnectionLostError` when there is no
    gateway.
    """

    def __init__(
        self, addresses: str | Sequence[str] = "127.0.0.1:7710", *, name: str = "", token: str | None = None,
        tls: TlsOption = None, user: str = "", connect_timeout_s: float = CONNECT_S, retry: Retry | None = DEFAULT,
    ) -> None:  # fmt: skip
        policy = retry or NEVER
        self._addresses = read_addresses(addresses)
        self._security = Security(token, tls)
        for address in self._addresses:
            self._security.context(address)
        self._session = Session(policy, secrets.token_hex(8), random.random)
        self._dialer = Dialer(self._addresses, policy, random.random)
        self._identity = (name or "python-asyncio", self._security.token, user)
        self._connect_timeout_s = connect_timeout_s
        self._futures: dict[int, asyncio.Future[Any]] = {}
        self._wire: Wire | None = None
        self._hello: ServerHello | None = None
        self._dialing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> AsyncClient:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def connect(self) -> ServerHello:
        """Connect and greet."""
        self._loop = asyncio.get_running_loop()
        while True:
            try:
                return await self._open()
            except StagelineError as error:
                if self._dialer.failed(self._loop.time(), why=error.message):
                    raise self._dialer.of_all(error) from None

    @property
    def server(self) -> ServerHello:
        """What the gateway said about itself; the last one, if there were several."""
        if self._hello is None:
            raise ConnectionLostError("not connected: use `async with AsyncClient(...)`, or `await client.connect()`")
        return self._hello

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, npt.ArrayLike],
        *,
        priority: int = 0,
        deadline_s: float | None = None,
        trace_id: str = "",
        idempotency_key: str = "",
    ) -> InferResult:
        """As `Client.infer`. Cancelling the task cancels the request at the gateway."""
        tensors = to_wire(inputs)
        call = self._session.infer(
            model, tensors, self._now(), priority=priority, deadline_s=deadline_s, trace_id=trace_id,
            idempotency_key=idempotency_key,
        )  # fmt: skip
        answer: InferResult = await self._ask(call)
        return answer

    async def infer_many(
        self,
        model: str,
        batches: Iterable[Mapping[str, npt.ArrayLike]],
        *,
        concurrency: int = 16,
        priority: int = 0,
        deadline_s: float | None = None,
        progress: Callable[[int], None] | None = None,
        return_errors: bool = False,
    ) -> AsyncIterator[Any]:
        """As `Client.infer_many`."""
        check_concurrency(concurrency)
        waiting: list[asyncio.Task[InferResult]] = []
        source = iter(batches)
        done = 0
        try:
            while True:
                while len(waiting) < concurrency and (inputs := next(source, None)) is not None:
                    request = self.infer(model, inputs, priority=priority, deadline_s=deadline_s)
                    waiting.append(asyncio.ensure_future(request))
                if not waiting:
                    return
                (outcome,) = await asyncio.gather(waiting.pop(0), return_exceptions=True)
                if isinstance(outcome, BaseException) and not (return_errors and isinstance(outcome, StagelineError)):
                    raise outcome
                done += 1
                if progress is not None:
                    progress(done)
                yield outcome
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def describe(self, model: str | None = None, *, timeout_s: float = 10.0) -> dict[str, ModelInfo]:
        """As `Client.describe`."""
        answer: dict[str, ModelInfo] = await self._ask(self._session.describe(model, self._now(), timeout_s))
        return answer

    async def close(self) -> None:
        """Close the connection; what is not answered fails with `ConnectionLostError`."""
        self._settle(self._session.end(closed_error()))
        self._loop, wire = None, self._wire
        if self._timer is not None:
            self._timer.cancel()
        if self._dialing is not None:
            self._dialing.cancel()
            await asyncio.gather(self._dialing, return_exceptions=True)
        if wire is not None:
            await wire.close()

    # --- own ------------------------------------------------------------------------------------------------

    def _now(self) -> float:
        if self._loop is None:
            raise ConnectionLostError("not connected: use `async with AsyncClient(...)`, or `await client.connect()`")
        return self._loop.time()

    async def _ask(self, call: Call) -> Any:
        future = asyncio.get_running_loop().create_future()
        self._futures[call.number] = future
        try:
            self._look(call.begun)
            if self._wire is not None:
                await self._wire.writable.wait()
            return await future
        except asyncio.CancelledError:
            pieces = self._session.cancel(call.number)
            if self._wire is not None:
                self._wire.write(pieces)
            raise
        finally:
            self._futures.pop(call.number, None)
            if future.done() and not future.cancelled():
                future.exception()

    def _look(self, now: float) -> None:
        """Send what is due, end what is late, connect if that is needed, and look again in time."""
        if self._loop is None:
            return
        self._settle(self._session.due(now))
        if self._wire is not None:
            self._wire.write(self._session.take(now))
        elif self._session.waiting and (self._dialing is None or self._dialing.done()):
            self._dialing = self._loop.create_task(self._dial())
        at = self._session.wake_at()
        if at is not None and (self._timer is None or at < self._timer.when()):
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(at, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self._loop is not None:
            self._look(self._loop.time())

    async def _dial(self) -> None:
        while self._session.waiting and self._wire is None:
            await asyncio.sleep(max(0.0, self._dialer.not_before - self._now()))
            try:
                await self._open()
            except StagelineError as error:
                now = self._now()
                complete = self._dialer.failed(now, error.retry_after_s or 0.0, error.message)
                self._settle(self._session.apart(self._dialer.of_all(error), now, all_tried=complete))

    async def _open(self) -> ServerHello:
        name, token, user = self._identity
        core = ClientCore(name=name, token=token, user=user)
        wire, hello = await open_wire(
            self._dialer.address, core, self._security, self._finished, self._lost, self._connect_timeout_s
        )
        if wire.lost is not None:
            raise wire.lost
        self._wire, self._hello = wire, hello
        self._session.connected(hello.limits)
        self._look(self._now())
        return hello

    def _finished(self, events: Sequence[Finished]) -> None:
        if self._loop is None:
            return
        now = self._now()
        ended = [self._session.answered(event.id, event.value, now) for event in events]
        self._dialer.works()
        self._settle([one for one in ended if one is not None])
        if len(ended) != sum(one is not None for one in ended):
            self._look(now)

    def _lost(self, wire: Wire, error: StagelineError) -> None:
        if self._loop is None or wire is not self._wire:
            return
        now = self._now()
        self._wire = None
        complete = self._dialer.failed(now, error.retry_after_s or 0.0, error.message)
        self._settle(self._session.lost(error, now))
        self._settle(self._session.apart(self._dialer.of_all(error), now, all_tried=complete))
        self._look(now)

    def _settle(self, ended: Sequence[Ended]) -> None:
        for one in ended:
            future = self._futures.pop(one.number, None)
            if future is None or future.done():
                continue
            if isinstance(one.value, StagelineError):
                future.set_exception(one.value)
            else:
                future.set_result(one.value)
