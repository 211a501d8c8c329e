"""mosec with two stages that return what they get: HTTP in, Unix sockets between its server and its workers."""

from __future__ import annotations

import importlib.util
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TIMEOUT_S = 30.0


class Mosec:
    """HTTP/1.1 connections that are kept open, one for each item in flight; the cheapest client there is."""

    name = "mosec"
    transport = "HTTP over TCP; mosec's Unix sockets (pickled bytes) behind the server, no batching"

    def start(self) -> None:
        from common import SkippedError
        from contenders.gloo import free_port

        if importlib.util.find_spec("mosec") is None:
            raise SkippedError("mosec is not installed: pip install 'stageline[bench]'")
        self._port = free_port()
        self._folder = tempfile.TemporaryDirectory(prefix="stageline-bench-")
        server = Path(__file__).with_name("mosec_server.py")
        command = [sys.executable, str(server), "--port", str(self._port), "--path", self._folder.name]
        command += ["--log-level", "error", "--timeout", "30000"]
        quiet: Any = subprocess.DEVNULL
        self._server = subprocess.Popen(command, stdout=quiet, stderr=quiet, start_new_session=True)
        self._connections: list[socket.socket] = []
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                self.run(64, 1, 1)
                return
            except (OSError, RuntimeError):
                self._connections.clear()
                time.sleep(0.1)
        raise RuntimeError("mosec did not come up")

    def run(self, nbytes: int, window: int, items: int) -> float:
        while len(self._connections) < window:
            self._connections.append(socket.create_connection(("127.0.0.1", self._port), TIMEOUT_S))
        head = f"POST /inference HTTP/1.1\r\nHost: x\r\nContent-Length: {nbytes}\r\n\r\n".encode()
        request = head + bytes(nbytes)
        begun = time.perf_counter()
        _Exchange(self._connections[:window], request, nbytes, items).run()
        return time.perf_counter() - begun

    def stop(self) -> None:
        for connection in self._connections:
            connection.close()
        os.killpg(self._server.pid, signal.SIGTERM)
        self._server.wait(TIMEOUT_S)
        self._folder.cleanup()


class _Exchange:
    """Sends `items` requests over the connections and reads their answers, in one thread."""

    def __init__(self, connections: list[socket.socket], request: bytes, nbytes: int, items: int) -> None:
        self._connections, self._request, self._nbytes = connections, memoryview(request), nbytes
        self._to_send, self._to_come = items, items
        self._unsent: dict[socket.socket, memoryview] = {}
        self._missing: dict[socket.socket, int] = {}
        self._scratch = bytearray(1 << 20)

    def run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for connection in self._connections:
                connection.setblocking(False)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                selector.register(connection, selectors.EVENT_READ)
                self._next(connection, selector)
            while self._to_come:
                for key, mask in selector.select(TIMEOUT_S) or self._silent():
                    ready: Any = key.fileobj
                    if mask & selectors.EVENT_WRITE:
                        self._write(ready, selector)
                    if mask & selectors.EVENT_READ and self._read(ready):
                        self._to_come -= 1
                        self._next(ready, selector)

    def _silent(self) -> Any:
        raise RuntimeError("mosec is silent")

    def _next(self, connection: socket.socket, selector: selectors.BaseSelector) -> None:
        if self._to_send:
            self._to_send -= 1
            self._unsent[connection] = self._request
            self._missing[connection] = -1
            self._write(connection, selector)

    def _write(self, connection: socket.socket, selector: selectors.BaseSelector) -> None:
        unsent = self._unsent.get(connection)
        while unsent:
            try:
                unsent = unsent[connection.send(unsent) :]
            except BlockingIOError:
                break
        self._unsent[connection] = unsent or memoryview(b"")
        selector.modify(connection, selectors.EVENT_READ | (selectors.EVENT_WRITE if unsent else 0))

    def _read(self, connection: socket.socket) -> bool:
        """Whether the answer is complete now."""
        try:
            count = connection.recv_into(self._scratch)
        except BlockingIOError:
            return False
        if not count:
            raise RuntimeError("mosec closed a connection")
        if self._missing[connection] < 0:
            head, _, _ = bytes(self._scratch[:count]).partition(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"mosec answered {head[:100]!r}")
            self._missing[connection] = self._nbytes + len(head) + 4
        self._missing[connection] -= count
        return self._missing[connection] == 0
