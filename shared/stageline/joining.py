"""What a worker or gateway needs before it can talk with its coordinator: its keys, and where others reach it.

Who has none joins with a token: it makes a key pair, shows it and the token at the coordinator's join port, and
keeps the pair once the coordinator has it on disk that the key is let in.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq

from stageline import __version__, logs
from stageline.addresses import ANY_HOST, bracketed, host_of, own_address_towards
from stageline.config import GatewayConfig, StageConfig, default_data_dir
from stageline.coordinators import NOT_LEADING, read_addresses
from stageline.curve import KeyPair, read_pair, read_secret, write_pair, write_public
from stageline.errors import ClusterError, ConfigError
from stageline.jointoken import JoinToken, read_token
from stageline.keyfiles import COORDINATOR_PUBLIC, NAME, NODE_KEY, read_keyring
from stageline.keyring import Keyring
from stageline.messages import JOIN, Join, Joined, Refused
from stageline.monitors import refusal
from stageline.sockets import Sockets
from stageline.wire import PROTOCOL_MAX, PROTOCOL_MIN, Decoder, encode

SILENT_S = 5.0
AGAIN_S = 1.0
_decode: Decoder[Any] = Decoder(JOIN.to_connector)


@dataclass(frozen=True)
class _Silent:
    """Nobody answered, and what libzmq says of why."""

    why: str


def node_keyring(config: GatewayConfig | StageConfig) -> Keyring | None:
    """The keys of a worker or gateway, made and let in now if it has a token instead; None without either.

    Waits for a coordinator that does not answer. Raises `ConfigError` for another's keys or what is no token,
    `ClusterError` when the coordinator does not let it in.
    """
    token = _token(config)
    directory = config.keys_dir or (_default_dir(config.name) if token is not None else None)
    if directory is not None and token is not None and not (directory / COORDINATOR_PUBLIC).exists():
        join(directory, config.name, config.coordinator, token)
    keyring = read_keyring(directory)
    if keyring is not None and keyring.name != config.name:
        raise ConfigError(
            f"{directory} holds the keys of {keyring.name!r}: start it with --name {keyring.name}, or make keys for "
            f"{config.name!r} with `stageline keys add`"
        )
    return keyring


def advertised_host(host: str, named: str, coordinator: str) -> str:
    """The host that others are told: the one `named`, or where `host` is all of them, the one towards `coordinator`.

    Raises `ConfigError` if none can be found.
    """
    if named or host not in ANY_HOST:
        return named
    return own_address_towards(read_addresses(coordinator)[0])


def join(directory: Path, name: str, coordinator: str, token: JoinToken) -> None:
    """Have the coordinator let the key in `directory` in; it is made there if there is none. Errors as above."""
    log = logs.get(part="join")
    if not NAME.fullmatch(name):
        raise ConfigError(f"{name[:80]!r} cannot be the name of a node with keys: want letters, digits, . _ and -")
    key = directory / NODE_KEY
    if not key.exists():
        write_pair(key, KeyPair.fresh(), name)
    addresses = [f"tcp://{bracketed(host_of(one))}:{token.port}" for one in read_addresses(coordinator)]
    pair, told, turn = read_pair(key)[0], "", 0
    while True:
        address = addresses[turn % len(addresses)]
        answer = _knock(address, pair, name, token)
        if isinstance(answer, Joined):
            break
        if isinstance(answer, Refused) and answer.code != NOT_LEADING:
            raise ClusterError(f"the coordinator at {address} does not let {name!r} in: {answer.message}")
        why = _explain(address, answer)
        if why != told:
            log.warning("cannot join yet", reason=why)
        told, turn = why, turn + 1
        time.sleep(AGAIN_S)
    write_public(directory / COORDINATOR_PUBLIC, token.coordinator)
    log.info("let in by the coordinator", name=name, coordinator=address, cluster=answer.cluster)


def _explain(address: str, answer: Refused | _Silent) -> str:
    if isinstance(answer, Refused):
        return answer.message
    if answer.why:
        raise ClusterError(f"who answers at {address} is not the coordinator that the join token is of: {answer.why}")
    return f"nobody answers at {address}: check that the coordinator runs with keys, its address, and its join_port"


def _knock(address: str, pair: KeyPair, name: str, token: JoinToken) -> Joined | Refused | _Silent:
    sockets = Sockets(keyring=Keyring(pair, token.coordinator, name))
    try:
        socket = sockets.connect(JOIN, address)
        message = Join(
            name=name,
            token=token.id,
            secret=token.secret,
            time_s=time.time(),
            protocol_min=PROTOCOL_MIN,
            protocol_max=PROTOCOL_MAX,
            version=__version__,
        )
        socket.send(encode(message))
        end = time.monotonic() + SILENT_S
        while time.monotonic() < end:
            if socket.poll(100, zmq.POLLIN):
                answer: Joined | Refused = _decode(socket.recv())
                return answer
            if why := refusal(socket):
                return _Silent(why)
        return _Silent("")
    finally:
        sockets.close()


def _token(config: GatewayConfig | StageConfig) -> JoinToken | None:
    if config.join_token:
        return read_token(config.join_token)
    if config.join_token_file is not None:
        return read_token(read_secret(config.join_token_file))
    return None


def _default_dir(name: str) -> Path:
    return default_data_dir() / "keys" / name
