"""The join port, and the administrator's requests about keys: what happens there is on disk before it is answered."""

from __future__ import annotations

import time
from collections.abc import Callable

import zmq

from stageline import logs
from stageline.addresses import KEY_BYTES
from stageline.errors import ClusterError, ConfigError, RemoteProtocolError, StagelineError
from stageline.gatekeeper import user_of
from stageline.jointoken import LONGEST_TOKEN_S, JoinToken, hashed
from stageline.keyring import Keyring
from stageline.messages import JOIN, Done, ErrorReply, Join, Joined, MakeToken, RevokeKey, RotateKey, TokenMade
from stageline.sockets import Socket
from stageline.wire import Decoder, Message, encode

from .authority import Authority
from .store import Store
from .tokens import ANY_NUMBER, Key, OldKey, Token, judge, made_beforehand

BURST = 16
MAX_USES = 100_000
OVERLAP_S = (5.0, 30 * 86400.0)
_decode: Decoder[Join] = Decoder(JOIN.to_binder, max_bytes=4096)


class Door:
    """`socket`: the bound ROUTER of the join channel. `refusal` is given to all while another coordinator leads;
    `changed` is called when somebody more is let in.
    """

    def __init__(
        self,
        socket: Socket,
        store: Store,
        keyring: Keyring,
        owners: Callable[[], dict[str, Key]],
        refusal: Callable[[], Message | None],
        changed: Callable[[], None],
    ) -> None:
        self.socket, self._keyring, self._changed = socket, keyring, changed
        self._store, self._owners, self._refusal = store, owners, refusal
        self._log = logs.get(service="coordinator", part="join")

    def serve(self) -> None:
        """Answer who knocks."""
        for _ in range(BURST):
            try:
                identity, *frames = self.socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            try:
                join = _decode(frames[0].bytes if len(frames) == 1 else b"")
            except RemoteProtocolError as error:
                self._log.warning("message dropped", reason=error.message[:200])
                continue
            answer = self._refusal() or self._answer(join, user_of(frames[0]))
            try:
                self.socket.send_multipart([identity.bytes, encode(answer)], zmq.NOBLOCK)
            except zmq.ZMQError:
                self._log.info("who joins does not take its answer", name=join.name[:80])

    def _answer(self, join: Join, key: str) -> Message:
        name = join.name[:100]
        identity = join.token[:40]
        token = made_beforehand(identity, self._keyring.own.secret) or self._store.token(identity)
        found = judge(join, key, token, self._owners().get(name), time.time())
        if not isinstance(found, Token):
            self._log.warning("refused to let join", name=name, key=key[:16], reason=found.message)
            return found
        self._store.put_key(Key(name, key), found)
        self._changed()  # before it hears that it may come
        self._log.info("let join", name=name, key=key[:16], token=found.id, uses_left=found.uses)
        return Joined(name=name, cluster=self._store.cluster)


def check_overlap(seconds: float) -> None:
    """Raises `ConfigError` unless two keys may be valid beside each other for so long."""
    least, most = OVERLAP_S
    if not least <= seconds <= most:
        raise ConfigError(f"overlap: must be between {least:g} s and {most / 86400:g} days")


class KeyRequests:
    """Answers administrators. Without a keyring there is nothing to ask for."""

    def __init__(self, store: Store, keyring: Keyring | None, authority: Authority, port: int) -> None:
        self._store, self._keyring, self._authority, self._port = store, keyring, authority, port

    def answer(self, request: MakeToken | RevokeKey) -> Message:
        """What is refused is answered with `ErrorReply`."""
        try:
            if isinstance(request, RevokeKey):
                return self._revoke(request)
            return self._token(request)
        except StagelineError as error:
            return ErrorReply(id=request.id, code=error.code, message=error.message)

    def check_rotation(self, request: RotateKey) -> None:
        """Raises `ClusterError` without keys, `ConfigError` for an overlap that cannot be."""
        if self._keyring is None:
            raise ClusterError("this cluster has no keys, so there are none to change: see `stageline keys init`")
        check_overlap(request.overlap_s)

    def rotate(self, request: RotateKey, public: bytes) -> None:
        """Let the new key in under the name, and the one of before until the overlap is over. On disk on return.

        Raises `ClusterError` for a key that is none, or somebody's already.
        """
        owner = self._authority.owners().get(request.name)
        if owner is None or owner.revoked:
            raise ClusterError(f"no key of {request.name[:80]!r} is let in any more")
        if owner.public == public.hex():
            return
        known = self._keyring.principals if self._keyring is not None else {}
        if len(public) != KEY_BYTES or public in known:
            raise ClusterError(f"{request.name} made a key that cannot be: try again")
        until = time.time() + request.overlap_s
        old = OldKey(owner.public, request.name, until, filed=self._authority.filed(request.name))
        self._store.rotate_key(Key(request.name, public.hex()), old)
        self._authority.read()

    def _token(self, request: MakeToken) -> TokenMade:
        if self._keyring is None:
            raise ClusterError("this cluster has no keys, so nobody needs a token: see `stageline keys init`")
        if not 0 <= request.uses <= MAX_USES or not 0 < request.expires_s <= LONGEST_TOKEN_S:
            raise ConfigError(f"a token is for 1 to {MAX_USES} uses, or any number, and for a year at most")
        token = JoinToken.fresh(self._keyring.coordinator, self._port)
        uses = request.uses or ANY_NUMBER
        self._store.put_token(Token(token.id, hashed(token.secret), uses, time.time() + request.expires_s))
        return TokenMade(id=request.id, token=token.text)

    def _revoke(self, request: RevokeKey) -> Done:
        owners = self._authority.owners()
        owner = owners.get(request.name)
        if owner is None or owner.revoked:
            known = ", ".join(sorted(name for name, key in owners.items() if not key.revoked)) or "none"
            raise ClusterError(f"no key of {request.name[:80]!r} is let in; there are: {known}")
        self._store.put_key(Key(owner.name, owner.public, revoked=True))
        return Done(id=request.id)
