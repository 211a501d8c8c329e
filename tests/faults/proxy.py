"""A TCP proxy that hurts what passes it, for tests: one thread for any number of proxies, each on a free port.

A proxy's toxics may be changed at any time from any thread and act on open connections too. What each did is counted,
so that a test can prove that its fault happened.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, TypeVar

from .toxics import (
    Bandwidth,
    Corrupt,
    Direction,
    Drop,
    HalfOpen,
    Hold,
    Latency,
    LimitData,
    ResetPeer,
    Slicer,
    SlowClose,
    Timeout,
    Toxic,
    Truncate,
)

CHUNK_BYTES = 64 << 10
QUEUE_CHUNKS = 64
CLOSE_S = 5.0
LINGER_RESET = struct.pack("ii", 1, 0)

T = TypeVar("T")
K = TypeVar("K")


class ProxyThread:
    """The event loop of all proxies of a test. A context manager: afterwards no thread, task or socket is left."""

    def __init__(self, seed: int = 0) -> None:
        self.random = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._proxies: list[Proxy] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._thread.start()

    def __enter__(self) -> ProxyThread:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def proxy(self, upstream: tuple[str, int], name: str = "") -> Proxy:
        """A new proxy in front of `upstream`, which need not be there yet."""
        made = Proxy(self, upstream, name)
        self.run(made._listen())
        self._proxies.append(made)
        return made

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` in the loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CLOSE_S)

    def close(self) -> None:
        """Reset what is open and end the thread."""
        for proxy in self._proxies:
            self.run(proxy._close())
        self._proxies.clear()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_S)
        self._loop.close()


class Proxy:
    """One listening port. `counts` says what happened: "accepted", "refused", "up" and "down" (bytes passed), and for
    each toxic's class name in small letters the chunks or connections that it acted on."""

    def __init__(self, thread: ProxyThread, upstream: tuple[str, int], name: str) -> None:
        self.name, self.upstream = name, upstream
        self.counts: Counter[str] = Counter()
        self.random = thread.random
        self.port = 0
        self._thread = thread
        self._toxics: dict[Direction, list[Toxic]] = {"up": [], "down": []}
        self._changed = asyncio.Event()
        self._pairs: set[Pair] = set()
        self._serving: set[asyncio.Task[None] | None] = set()
        self._server: asyncio.Server | None = None
        self.tap: Callable[[int, bytes], None] | None = None
        """Is given what comes up, with a number for its connection; in the proxies' thread."""

    @property
    def address(self) -> str:
        """Where it listens, as ZeroMQ writes it."""
        return f"tcp://127.0.0.1:{self.port}"

    @property
    def open(self) -> int:
        """Connections that pass it now."""
        return len(self._pairs)

    def add(self, toxic: Toxic, direction: Direction = "up") -> None:
        """From now on, for all connections."""
        self._thread.run(self._change(self._toxics[direction], toxic, True))

    def remove(self, toxic: Toxic, direction: Direction = "up") -> None:
        """No longer; connections whose stream it has damaged are reset."""
        self._thread.run(self._change(self._toxics[direction], toxic, False))

    def partition(self) -> None:
        """Nothing passes either way, nobody is told; `heal` ends it."""
        for direction in ("up", "down"):
            self.add(Hold(), direction)

    def heal(self) -> None:
        """Remove every toxic."""
        for direction, toxics in self._toxics.items():
            for toxic in list(toxics):
                self.remove(toxic, direction)

    def reset(self) -> int:
        """Reset every open connection; how many there were."""
        return self._thread.run(self._reset(set(self._pairs)))

    # --- in the loop ----------------------------------------------------------------------------------------

    def toxics(self, direction: Direction) -> list[Toxic]:
        return self._toxics[direction]

    def first(self, direction: Direction, kind: type[K]) -> K | None:
        """The toxic of that kind, if there is one."""
        return next((toxic for toxic in self._toxics[direction] if isinstance(toxic, kind)), None)

    async def changed(self) -> None:
        """Wait until toxics come or go."""
        await self._changed.wait()

    def forget(self, pair: Pair) -> None:
        self._pairs.discard(pair)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.counts["accepted"] += 1
        task = asyncio.current_task()
        self._serving.add(task)
        try:
            await self._carry(reader, writer)
        finally:
            self._serving.discard(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*self.upstream)
        except OSError:
            self.counts["refused"] += 1
            abort(writer)
            return
        pair = Pair(self, (reader, writer), (far_reader, far_writer))
        self._pairs.add(pair)
        await pair.run()

    async def _change(self, toxics: list[Toxic], toxic: Toxic, present: bool) -> None:
        if present:
            toxics.append(toxic)
        else:
            toxics.remove(toxic)
        before, self._changed = self._changed, asyncio.Event()
        before.set()
        if not present and isinstance(toxic, (Drop, HalfOpen, Timeout)):
            await self._reset({pair for pair in self._pairs if pair.damaged})
        elif present and isinstance(toxic, HalfOpen):
            for pair in self._pairs:
                pair.halve()

    async def _reset(self, pairs: set[Pair]) -> int:
        for pair in pairs:
            pair.abort()
        return len(pairs)

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        await self._reset(set(self._pairs))
        await asyncio.gather(*(task for task in self._serving if task is not None), return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()


Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Pair:
    """A connection: the near end, which was accepted, and the far end, which was opened for it."""

    def __init__(self, proxy: Proxy, near: Ends, far: Ends) -> None:
        self.proxy = proxy
        self._near, self._far = near, far
        self.damaged = False
        self.halved = False
        self.tasks: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Carry bytes until both directions have ended."""
        streams = (Stream(self, "up", self._near[0], self._far[1]), Stream(self, "down", self._far[0], self._near[1]))
        self.tasks = [asyncio.ensure_future(work) for stream in streams for work in (stream.read(), stream.write())]
        try:
            await asyncio.gather(*self.tasks, return_exceptions=True)
        finally:
            self.proxy.forget(self)
            for _, writer in (self._near, self._far):
                writer.close()

    def halve(self) -> None:
        """Close the far end only."""
        self.halved = self.damaged = True
        self.proxy.counts["halfopen"] += 1
        abort(self._far[1])

    def abort(self) -> None:
        """Reset both ends."""
        for _, writer in (self._near, self._far):
            abort(writer)
        for task in self.tasks:
            task.cancel()


def abort(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
    writer.transport.abort()


class Stream:
    """One direction of a connection: a reader that stamps chunks with their time, a writer that acts on them."""

    def __init__(
        self, pair: Pair, direction: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._pair, self._proxy, self._direction = pair, pair.proxy, direction
        self._reader, self._writer = reader, writer
        self._queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUE_CHUNKS)
        self._passed = 0

    async def read(self) -> None:
        """Until the end of the stream, which is passed on as an empty chunk."""
        loop = asyncio.get_running_loop()
        data = b"."
        while data:
            try:
                data = await self._reader.read(CHUNK_BYTES)
            except OSError:
                data = b""
            if self._proxy.tap is not None and self._direction == "up":
                self._proxy.tap(id(self._pair), data)
            await self._queue.put((loop.time() + self._delay_s(data), data))

    async def write(self) -> None:
        """Pass on what was read, as far as the toxics let it."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                due, data = await self._queue.get()
                await asyncio.sleep(max(0.0, due - loop.time()))
                if not data:
                    break
                await self._act(data)
            await self._end()
        except OSError:
            if not self._pair.halved:
                await self._close_slowly()
                self._pair.abort()

    def _delay_s(self, data: bytes) -> float:
        latency = self._toxic(Latency)
        if latency is None or not data:
            return 0.0
        self._count("latency")
        return max(0.0, latency.ms + self._proxy.random.uniform(-1, 1) * latency.jitter_ms) / 1000

    def _toxic(self, kind: type[K]) -> K | None:
        return self._proxy.first(self._direction, kind)

    def _count(self, what: str, number: int = 1) -> None:
        self._proxy.counts[what] += number

    async def _act(self, data: bytes) -> None:
        while self._toxic(Hold) is not None:
            self._count("hold")
            await self._proxy.changed()
        if self._pair.halved or self._toxic(Drop) is not None:
            self._count("drop")
            self._pair.damaged = True
            return
        if (timeout := self._toxic(Timeout)) is not None:
            await self._time_out(timeout)
            return
        if (reset := self._toxic(ResetPeer)) is not None:
            self._count("resetpeer")
            await asyncio.sleep(reset.ms / 1000)
            self._pair.abort()
        truncate = self._toxic(Truncate)
        if truncate is not None and len(data) >= truncate.at_least:
            self._count("truncate")
            await self._cut(data[: len(data) // 2])
        await self._send(self._flipped(data))

    async def _time_out(self, timeout: Timeout) -> None:
        self._count("timeout")
        self._pair.damaged = True
        if timeout.ms:
            await asyncio.sleep(timeout.ms / 1000)
            self._pair.abort()

    async def _cut(self, rest: bytes) -> None:
        """Pass `rest` on and reset."""
        self._writer.write(rest)
        with contextlib.suppress(asyncio.TimeoutError):  # RST would overtake bytes that are not on the wire yet
            await asyncio.wait_for(self._flushed(), CLOSE_S)
        self._pair.abort()
        await asyncio.sleep(0)  # where the cancellation arrives

    async def _flushed(self) -> None:
        self._writer.transport.set_write_buffer_limits(0)
        await self._writer.drain()

    def _flipped(self, data: bytes) -> bytes:
        corrupt, choose = self._toxic(Corrupt), self._proxy.random
        if corrupt is None or choose.random() >= corrupt.probability:
            return data
        self._count("corrupt")
        bit = choose.randrange(8 * len(data))
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed)

    async def _send(self, data: bytes) -> None:
        slicer = self._toxic(Slicer)
        size = slicer.size if slicer is not None else len(data)
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            limit = self._toxic(LimitData)
            if limit is not None and self._passed + len(piece) > limit.nbytes:
                self._count("limitdata")
                await self._cut(piece[: max(0, limit.nbytes - self._passed)])
            if (bandwidth := self._toxic(Bandwidth)) is not None:
                self._count("bandwidth")
                await asyncio.sleep(len(piece) / bandwidth.bytes_per_s)
            if slicer is not None:
                self._count("slicer")
                await asyncio.sleep(slicer.ms / 1000)
            self._writer.write(piece)
            await self._writer.drain()
            self._passed += len(piece)
            self._count(self._direction, len(piece))

    async def _end(self) -> None:
        if self._pair.halved:
            return
        while self._toxic(Hold) is not None or self._toxic(Drop) is not None or self._toxic(Timeout) is not None:
            await self._proxy.changed()
        await self._close_slowly()
        if self._writer.can_write_eof() and not self._writer.is_closing():
            self._writer.write_eof()

    async def _close_slowly(self) -> None:
        if (slow := self._toxic(SlowClose)) is not None:
            self._count("slowclose")
            await asyncio.sleep(slow.ms / 1000)
