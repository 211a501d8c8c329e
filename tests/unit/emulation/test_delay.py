"""The proxy passes everything on, in order and late, and lets go of connections that have ended."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest

from stageline.emulation.delay import Reader, Route, Writer, run

DELAY_S = 0.1
Talk = Callable[[Reader, Writer], Awaitable[None]]


async def echo(reader: Reader, writer: Writer) -> None:
    """Until the end; then it says that it has heard it."""
    while data := await reader.read(1 << 16):
        writer.write(data)
    writer.write(b"end")
    writer.close()


def through(talk: Talk, behind: Talk | None) -> None:
    """Run `talk` on a connection through the proxy to `behind` (None: nobody listens)."""

    async def all_of_it() -> None:
        server = await asyncio.start_server(behind or echo, "127.0.0.1", 0)
        far = server.sockets[0].getsockname()[1]
        if behind is None:
            server.close()
        with socket.create_server(("127.0.0.1", 0)) as free:
            near = free.getsockname()[1]
        proxy = asyncio.ensure_future(run({near: Route("127.0.0.1", far, DELAY_S)}, "127.0.0.1"))
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", near)
                break
            except ConnectionRefusedError:
                await asyncio.sleep(0)
        try:
            await talk(reader, writer)
        finally:
            writer.close()
            server.close()
            proxy.cancel()
            with pytest.raises(asyncio.CancelledError):
                await proxy

    asyncio.run(asyncio.wait_for(all_of_it(), 30))


def test_bytes_and_the_end_arrive_in_order_and_late_both_ways() -> None:
    sent = bytes(range(256)) * 4096

    async def talk(reader: Reader, writer: Writer) -> None:
        begun = asyncio.get_running_loop().time()
        writer.write(sent)
        writer.write_eof()
        first = await reader.readexactly(1)
        assert asyncio.get_running_loop().time() - begun >= 2 * DELAY_S
        assert first + await reader.read(-1) == sent + b"end"

    through(talk, echo)


def test_nobody_behind_it_ends_the_connection() -> None:
    async def talk(reader: Reader, writer: Writer) -> None:
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)

    through(talk, None)


def test_a_far_end_that_resets_ends_the_near_one() -> None:
    async def reset(reader: Reader, writer: Writer) -> None:
        await reader.readexactly(1)
        writer.transport.abort()

    async def talk(reader: Reader, writer: Writer) -> None:
        writer.write(b"xx")
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)

    through(talk, reset)
