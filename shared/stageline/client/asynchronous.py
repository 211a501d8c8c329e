"""The asyncio client."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from types import TracebackType
from typing import Any

import numpy.typing as npt

from stageline.client.core import Broken, ClientCore, Finished, Greeted, InferResult, parse_address
from stageline.data import Buffer
from stageline.errors import ConnectionLostError, DeadlineError, StagelineError
from stageline.protocol import ModelInfo, ServerHello

CONNECT_S = 5.0
MISSED_PINGS = 3


class AsyncClient:
    """A connection to a gateway, for one event loop: ``async with AsyncClient(address) as client``.

    `connect` (or entering the context) raises `ConnectionLostError` when there is no gateway; so does every
    request that is unanswered when the connection breaks.
    """

    def __init__(
        self, address: str = "127.0.0.1:7710", *, name: str = "", token: str = "", user: str = "",
        connect_timeout_s: float = CONNECT_S,
    ) -> None:  # fmt: skip
        self._address = address
        self._core = ClientCore(name=name or "python-asyncio", token=token, user=user)
        self._connect_timeout_s = connect_timeout_s
        self._wire: _Wire | None = None

    async def __aenter__(self) -> AsyncClient:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def connect(self) -> ServerHello:
        """Connect and greet."""
        loop = asyncio.get_running_loop()
        host, port = parse_address(self._address)
        try:
            made = loop.create_connection(lambda: _Wire(loop, self._address, self._core), host, port)
            _, wire = await asyncio.wait_for(made, self._connect_timeout_s)
        except asyncio.TimeoutError:
            raise ConnectionLostError(f"cannot reach a gateway at {self._address} (timed out)") from None
        except OSError as error:
            reason = error.strerror or "refused"
            raise ConnectionLostError(f"cannot reach a gateway at {self._address} ({reason}): is it running?") from None
        self._wire = wire
        try:
            return await asyncio.wait_for(wire.greeted, self._connect_timeout_s)
        except asyncio.TimeoutError:
            await self.close()
            raise ConnectionLostError(f"{self._address} did not greet in time") from None

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, npt.ArrayLike],
        *,
        priority: int = 0,
        deadline_s: float | None = None,
        trace_id: str = "",
    ) -> InferResult:
        """As `Client.infer`. Cancelling the task cancels the request at the gateway."""
        wire = self._connected()
        number, pieces = self._core.infer(model, inputs, priority=priority, deadline_s=deadline_s, trace_id=trace_id)
        answer: InferResult = await wire.ask(number, pieces, self._core.patience(deadline_s))
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
        waiting: list[asyncio.Task[InferResult]] = []
        source = iter(batches)
        done = 0
        try:
            while True:
                while len(waiting) < max(1, concurrency) and (inputs := next(source, None)) is not None:
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
        wire = self._connected()
        number, pieces = self._core.describe(model)
        answer: dict[str, ModelInfo] = await wire.ask(number, pieces, timeout_s)
        return answer

    async def close(self) -> None:
        """Close the connection; what is not answered fails with `ConnectionLostError`."""
        if self._wire is not None:
            await self._wire.close()

    def _connected(self) -> _Wire:
        if self._wire is None:
            raise ConnectionLostError("not connected: use `async with AsyncClient(...)`, or `await client.connect()`")
        return self._wire


class _Wire(asyncio.BufferedProtocol):
    def __init__(self, loop: asyncio.AbstractEventLoop, address: str, core: ClientCore) -> None:
        self._loop = loop
        self._address = address
        self._core = core
        self._transport: asyncio.Transport
        self._futures: dict[int, asyncio.Future[Any]] = {}
        self._lost: StagelineError | None = None
        self._spoke = self._heard = loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self.greeted: asyncio.Future[ServerHello] = loop.create_future()
        self._closed: asyncio.Future[None] = loop.create_future()

    async def ask(self, number: int, pieces: list[Buffer], timeout_s: float) -> Any:
        if self._lost is not None:
            raise ConnectionLostError(self._lost.message)
        future = self._loop.create_future()
        self._futures[number] = future
        try:
            self._write(pieces)
            await self._writable.wait()
            return await asyncio.wait_for(future, timeout_s)
        except (asyncio.TimeoutError, asyncio.CancelledError) as error:
            if self._lost is None:
                self._write(self._core.cancel(number))
            if isinstance(error, asyncio.CancelledError):
                raise
            raise DeadlineError(f"the gateway did not answer within {timeout_s:.3g} s: is it overloaded?") from None
        finally:
            self._futures.pop(number, None)
            if future.done() and not future.cancelled():
                future.exception()

    async def close(self) -> None:
        self._end(ConnectionLostError("the client was closed"))
        self._transport.close()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._closed), 2.0)
        self._transport.abort()

    # --- asyncio --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            self._transport = transport

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._core.reader.get_buffer()  # type: ignore[return-value]

    def buffer_updated(self, nbytes: int) -> None:
        self._heard = self._loop.time()
        try:
            for event in self._core.received(self._core.reader.buffer_updated(nbytes)):
                if isinstance(event, Greeted):
                    self._greet(event)
                elif isinstance(event, Broken):
                    raise event.error
                else:
                    self._finish(event)
        except StagelineError as error:
            self._end(error)
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(ConnectionLostError(f"the gateway at {self._address} closed the connection"))
        if not self._closed.done():
            self._closed.set_result(None)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # --- own ------------------------------------------------------------------------------------------------

    def _write(self, pieces: list[Buffer]) -> None:
        self._spoke = self._loop.time()
        for piece in pieces:
            self._transport.write(piece)

    def _greet(self, event: Greeted) -> None:
        self._write(self._core.greeting())
        if not self.greeted.done():
            self.greeted.set_result(event.hello)
        if event.hello.keepalive_s:
            self._keep_alive(event.hello.keepalive_s)

    def _keep_alive(self, interval: float) -> None:
        now = self._loop.time()
        if now - self._heard >= MISSED_PINGS * interval:
            self._end(ConnectionLostError(f"{self._address} has said nothing for {now - self._heard:.0f} s"))
            self._transport.abort()
            return
        if now - self._spoke >= interval:
            self._write(self._core.ping())
        self._timer = self._loop.call_later(max(0.0, self._spoke + interval - now), self._keep_alive, interval)

    def _finish(self, event: Finished) -> None:
        future = self._futures.pop(event.id, None)
        if future is None or future.done():
            return
        if isinstance(event.value, StagelineError):
            future.set_exception(event.value)
        else:
            future.set_result(event.value)

    def _end(self, error: StagelineError) -> None:
        if self._lost is not None:
            return
        self._lost = error
        if self._timer is not None:
            self._timer.cancel()
        if not self.greeted.done():
            self.greeted.set_exception(error)
        for future in self._futures.values():
            if not future.done():
                future.set_exception(error)
        self._futures.clear()
        self._writable.set()
