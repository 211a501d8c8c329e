"""Client frames out of a byte stream: no I/O here, used by the gateway and by both clients.

The reader lends out the memory that the next bytes are to be received into (`socket.recv_into`,
`asyncio.BufferedProtocol`), so a large body is written once, straight from the kernel to where it stays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from stageline.data import Buffer
from stageline.errors import RemoteProtocolError
from stageline.protocol import MAX_BODY_BYTES, MAX_HEADER_BYTES, PREFIX

_SCRATCH_BYTES = 64 << 10


@dataclass(frozen=True)
class Frame:
    """A received frame; `body` is writable memory of its own, which nothing else refers to.

    `skipped` is the length of a body that is too large: it is not here, and what comes of it is discarded.
    """

    header: bytes
    body: memoryview
    skipped: int = 0


class _Part(Enum):
    LENGTHS = "lengths"
    HEADER = "header"
    BODY = "body"


class FrameReader:
    """Collects frames. A length beyond a limit raises `RemoteProtocolError` before anything is allocated for it.

    After an error the stream is out of step: close the connection. With `reserve`, a body beyond `max_body` is skipped
    instead, and memory for one within it is only allocated when `reserve` says so; if not, the reader is `blocked`,
    and keeps what it is given until `resume`. `frames` counts those that are complete.
    """

    def __init__(
        self,
        *,
        max_header: int = MAX_HEADER_BYTES,
        max_body: int = MAX_BODY_BYTES,
        reserve: Callable[[int], bool] | None = None,
    ) -> None:
        self.max_header = max_header
        self.max_body = max_body
        self.blocked = False
        self.frames = 0
        self._reserve = reserve
        self._rest = b""
        self._to_skip = 0
        self._scratch = memoryview(bytearray(_SCRATCH_BYTES))
        self._direct = False
        self._header = b""
        self._body_length = 0
        self._part = _Part.LENGTHS
        self._target = bytearray(PREFIX.size)
        self._filled = 0

    @property
    def idle(self) -> bool:
        """Whether no frame has begun: the stream may end here."""
        return self._part is _Part.LENGTHS and self._filled == 0 and not self._to_skip

    def get_buffer(self) -> memoryview:
        """Where to put the next bytes; never empty. Tell `buffer_updated` how many came."""
        self._direct = len(self._target) - self._filled >= _SCRATCH_BYTES
        return memoryview(self._target)[self._filled :] if self._direct else self._scratch

    def buffer_updated(self, count: int) -> list[Frame]:
        """`count` bytes were put into the buffer lent out last; the frames that are complete now."""
        if not self._direct:
            return self.feed(self._scratch[:count])
        self._filled += count
        return self._turn()

    def feed(self, data: Buffer) -> list[Frame]:
        """The frames that `data` completes."""
        if self.blocked:
            self._rest += bytes(data)
            return []
        rest = memoryview(data)
        frames: list[Frame] = []
        while rest:
            if self._to_skip:
                skipped = min(len(rest), self._to_skip)
                self._to_skip -= skipped
                rest = rest[skipped:]
                continue
            moved = min(len(rest), len(self._target) - self._filled)
            self._target[self._filled : self._filled + moved] = rest[:moved]
            self._filled += moved
            rest = rest[moved:]
            frames += self._turn()
            if self.blocked:
                self._rest = bytes(rest)
                break
        return frames

    def resume(self) -> list[Frame]:
        """The body that was waited for may be received now; the frames that are complete already."""
        rest, self._rest, self.blocked = self._rest, b"", False
        self._expect(_Part.BODY, self._body_length)
        return self.feed(rest)

    def _turn(self) -> list[Frame]:
        """Go on to the next part if this one is full."""
        if self._filled < len(self._target):
            return []
        if self._part is _Part.LENGTHS:
            header, self._body_length = PREFIX.unpack(self._target)
            self._check(header, self._body_length)
            self._expect(_Part.HEADER, header)
            return []
        if self._part is _Part.HEADER:
            self._header = bytes(self._target)
            if self._body_length > self.max_body:
                self._to_skip = self._body_length
                frame = Frame(self._header, memoryview(b""), self._body_length)
            elif not self._body_length:
                frame = Frame(self._header, memoryview(b""))
            else:
                self.blocked = self._reserve is not None and not self._reserve(self._body_length)
                if not self.blocked:
                    self._expect(_Part.BODY, self._body_length)
                return []
        else:
            frame = Frame(self._header, memoryview(self._target))
        self._expect(_Part.LENGTHS, PREFIX.size)
        self.frames += 1
        return [frame]

    def _expect(self, part: _Part, size: int) -> None:
        self._part, self._target, self._filled = part, bytearray(size), 0

    def _check(self, header: int, body: int) -> None:
        if not 0 < header <= self.max_header:
            raise RemoteProtocolError(f"a header of {header} bytes; 1 to {self.max_header} are allowed")
        if body > self.max_body and self._reserve is None:
            raise RemoteProtocolError(f"a body of {body} bytes exceeds the limit of {self.max_body}")
