"""`python -m stageline.emulation.delay ROUTES`: a TCP proxy that passes everything on late, for links with a delay.

ROUTES is JSON: by the port on which to listen, ``[host, port, milliseconds]`` of whoever is behind it. Order and
throughput stay; what is passed on is not looked at, so encryption goes through.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

CHUNK_BYTES = 64 << 10
QUEUE_CHUNKS = 256
"""Under way in each direction at most; then the sender has to wait, as for a link that is full."""

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter
UnderWay = asyncio.Queue[tuple[float, bytes]]
"""Chunks, and when each is due."""


@dataclass(frozen=True)
class Route:
    """Whoever connects is connected with `host`:`port`, and all that either says arrives `delay_s` later."""

    host: str
    port: int
    delay_s: float

    async def serve(self, reader: Reader, writer: Writer) -> None:
        """One connection, to its end."""
        try:
            far_reader, far_writer = await asyncio.open_connection(self.host, self.port)
        except OSError:  # nobody is there, or not yet: the peer will come again
            writer.transport.abort()
            return

        def end() -> None:
            writer.transport.abort()
            far_writer.transport.abort()

        try:
            await asyncio.gather(self._carry(reader, far_writer, end), self._carry(far_reader, writer, end))
        finally:
            end()

    async def _carry(self, reader: Reader, writer: Writer, end: Callable[[], None]) -> None:
        """One direction; the end of the stream is an empty chunk, and is late, too."""
        under_way: UnderWay = asyncio.Queue(QUEUE_CHUNKS)
        sending = asyncio.ensure_future(_send(under_way, writer, end))
        data = b"."
        while data:
            try:
                data = await reader.read(CHUNK_BYTES)
            except OSError:
                data = b""
            await under_way.put((asyncio.get_running_loop().time() + self.delay_s, data))
        await sending


async def _send(under_way: UnderWay, writer: Writer, end: Callable[[], None]) -> None:
    """What is under way, when it is due. Where it cannot be passed on, both ends are closed and the rest is lost."""
    loop = asyncio.get_running_loop()
    try:
        while True:
            due, data = await under_way.get()
            await asyncio.sleep(due - loop.time())
            if not data:
                break
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        end()
        while data:
            _, data = await under_way.get()


async def run(routes: Mapping[int, Route], host: str = "0.0.0.0") -> None:
    """Until cancelled."""
    servers = [await asyncio.start_server(route.serve, host, port) for port, route in routes.items()]
    await asyncio.gather(*(server.serve_forever() for server in servers))


def main(asked: str) -> None:
    """Until the container is stopped."""
    routes = {int(port): Route(host, at, ms / 1000) for port, (host, at, ms) in json.loads(asked).items()}
    asyncio.run(run(routes))


if __name__ == "__main__":
    main(sys.argv[1])
