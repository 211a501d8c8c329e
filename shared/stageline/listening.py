"""Binding a ZeroMQ socket: patience with a port that is taken for a moment, and the true reason where it cannot be.

A port can be taken though nobody is meant to have it: its owner of before was killed and is not gone yet, or a
connection of whatever program was given it for its own end, as happens with those of `ip_local_port_range` (ip(7)).
"""

from __future__ import annotations

import errno
import os
import time

import zmq

from stageline.errors import ConfigError, StagelineError

TRY_AGAIN_S = 0.1

_LACKING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_NOT_HERE = frozenset({errno.EADDRNOTAVAIL, errno.ENODEV})


def listen(socket: zmq.Socket[bytes], address: str, patience_s: float = 0.0) -> None:
    """Bind; where somebody else has the port, again and again for `patience_s`.

    Raises `ConfigError` for a port that stays taken, an address that is not this machine's or is malformed, and
    `StagelineError` where the machine lacks what is needed now (descriptors, memory), whatever the settings are.
    """
    until = time.monotonic() + patience_s
    while True:
        try:
            socket.bind(address)
        except zmq.ZMQError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() >= until:
                raise _explained(address, error.errno or 0) from None
        else:
            return
        time.sleep(TRY_AGAIN_S)


def _explained(address: str, number: int) -> StagelineError:
    problem = f"cannot listen on {address} ({os.strerror(number)})"
    if number in _LACKING:
        return StagelineError(problem)
    if number in _NOT_HERE:
        return ConfigError(f"{problem}: this machine has no such address, choose another host")
    return ConfigError(f"{problem}: choose another port")
