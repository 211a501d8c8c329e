"""The client port with tokens and TLS, over real sockets, and the clients against it; no engine behind it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import waiting

from stageline import AsyncClient, Client, Retry, Tls, logs
from stageline import protocol as p
from stageline.clienttokens import Limits, create_token, revoke_tokens
from stageline.data import Buffer
from stageline.errors import (
    AuthenticationError,
    ConfigError,
    ConnectionLostError,
    ForbiddenError,
    RejectedError,
    StagelineError,
)
from stageline.framing import FrameReader
from stageline_gateway import clients
from stageline_gateway.access import Access
from stageline_gateway.certificate import Certificate
from stageline_gateway.clients import ClientPort
from stageline_gateway.receiving import Budget

WAIT_S = 20.0
LOOK_S = 0.02
X = {"x": np.ones((1, 4), np.float32)}
LARGE = {"x": np.arange(1 << 20, dtype=np.float32).reshape(1, -1)}
EAGER = Retry(attempts=100, first_s=0.01, longest_s=0.02)


class Echo:
    """A gateway's port in a thread, where answers are what came; `held` requests wait for `release`."""

    def __init__(self, access: Access | None, certificate: Certificate | None) -> None:
        self.away: list[StagelineError] = []
        self.limits: list[str] = []
        self.users: list[str] = []
        self.hold = False
        self.held: list[tuple[int, p.Infer, Sequence[Buffer]]] = []
        self._loop = asyncio.new_event_loop()
        hello = p.ServerHello((1,), "s", "g", p.Limits(64 << 20, 16), auth_required=access is not None)
        self._stop = asyncio.Event()
        self._port = ClientPort(self._loop, hello, self, Budget(64 << 20), 5.0, access, certificate)
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))
        self._up = threading.Event()
        self._thread.start()
        assert self._up.wait(WAIT_S)

    @property
    def name(self) -> str:
        """As others are told."""
        return self._port.scheme + self.address

    async def _run(self) -> None:
        self.address = await self._port.listen("127.0.0.1", 0)
        self._up.set()
        while not self._stop.is_set():
            self._port.look()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stop.wait(), LOOK_S)
        await self._port.close()

    def call(self, action: Callable[[], Any]) -> Any:
        async def run() -> Any:
            return action()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(WAIT_S)

    def release(self) -> None:
        def answer() -> None:
            while self.held:
                self._answer(*self.held.pop())

        self.hold = False
        self.call(answer)

    def close(self) -> None:
        self.call(self._stop.set)
        self._thread.join(WAIT_S)
        self._loop.close()

    def _answer(self, client: int, message: p.Infer, buffers: Sequence[Buffer]) -> None:
        self._port.send(client, p.Result(message.id, message.inputs), buffers)

    # --- what connections say -------------------------------------------------------------------------------

    def infer(self, client: int, message: p.Infer, buffers: Sequence[Buffer]) -> None:
        self.users.append(message.user)
        if self.hold:
            self.held.append((client, message, buffers))
        else:
            self._answer(client, message, buffers)

    def describe(self, client: int, message: p.Describe) -> None:
        self._port.send(client, p.Described(message.id))

    def cancel(self, client: int, request_id: int) -> None:
        pass

    def gone(self, client: int) -> None:
        pass

    def turned_away(self, peer: str, error: StagelineError) -> None:
        assert peer.startswith("127.0.0.1:")
        self.away.append(error)

    def limited(self, token: str) -> None:
        self.limits.append(token)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is said by the environment."""
    for name in ("TOKEN", "TOKEN_FILE", "TLS", "CA_FILE", "CERT_FILE", "KEY_FILE"):
        monkeypatch.delenv(f"STAGELINE_{name}", raising=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


@pytest.fixture
def serve(path: Path) -> Iterator[Callable[..., Echo]]:
    """Starts a port: with the tokens of `path` if there are any, with a certificate if one is given."""
    with contextlib.ExitStack() as stack:

        def start(*certificate: Path) -> Echo:
            access = Access(path, logs.get()) if path.exists() else None
            cert, key, ca = (*certificate, None, None, None)[:3]
            made = Echo(access, Certificate(cert, key, ca, logs.get()) if cert is not None else None)
            stack.callback(made.close)
            return made

        yield start


def token(path: Path, limits: Limits = Limits(), name: str = "camera") -> str:  # noqa: B008
    return create_token(path, name, limits, now=0.0)[1]


def eventually(condition: Callable[[], Any]) -> None:
    waiting.eventually("what is waited for", condition, WAIT_S)


def echoed(client: Client, inputs: dict[str, Any], **how: Any) -> bool:
    return np.array_equal(client.infer("m", inputs, **how).outputs["x"], inputs["x"])


class TestTokens:
    def test_a_client_with_the_token_is_served_and_its_keys_are_its_own(self, serve, path):
        text = token(path)
        port = serve()
        with Client(port.address, token=text, user="u") as client:
            assert client.server.auth_required
            assert echoed(client, X) and echoed(client, LARGE)
        assert port.users == [f"{text.split('_')[1]}:u"] * 2 and port.away == []

    def test_the_environment_may_hold_it(self, serve, path, tmp_path, monkeypatch):
        (tmp_path / "token").write_text(token(path) + "\n")
        (tmp_path / "token").chmod(0o600)
        monkeypatch.setenv("STAGELINE_TOKEN_FILE", str(tmp_path / "token"))
        with Client(serve().address) as client:
            assert echoed(client, X)

    def test_without_a_token_connecting_says_so(self, serve, path):
        token(path)
        port = serve()
        with pytest.raises(AuthenticationError, match="the gateway g asks for a token: give one"):
            Client(port.address)

        async def ask() -> None:
            async with AsyncClient(port.address):
                pass

        with pytest.raises(AuthenticationError, match="asks for a token"):
            asyncio.run(ask())

    @pytest.mark.parametrize("inputs", [X, LARGE], ids=["small", "large"])
    def test_a_wrong_token_ends_every_request_at_once_and_with_its_reason(self, serve, path, inputs):
        token(path)
        port = serve()
        wrong = token(path.with_name("other.json"))
        with Client(port.address, token=wrong) as client, pytest.raises(AuthenticationError, match="not one of this"):
            client.infer("m", inputs, deadline_s=WAIT_S)

        async def ask() -> None:
            async with AsyncClient(port.address, token=wrong) as client:
                await client.infer("m", inputs, deadline_s=WAIT_S)

        with pytest.raises(AuthenticationError, match="not one of this"):
            asyncio.run(ask())
        assert len(port.away) >= 2 and port.users == []

    def test_who_says_nothing_of_a_token_gets_the_error_and_is_disconnected(self, serve, path):
        token(path)
        host, _, number = serve().address.rpartition(":")
        with socket.create_connection((host, int(number)), WAIT_S) as raw:
            raw.sendall(b"".join(p.encode_frame(p.ClientHello(1))))
            data = b"".join(iter(lambda: raw.recv(65536), b""))
        hello, error = (p.decode_to_client(frame.header) for frame in FrameReader().feed(data))
        assert hello.auth_required
        assert (error.id, error.code) == (0, "authentication")
        assert error.message.startswith("this gateway asks for a token")

    def test_a_stranger_cannot_take_memory(self, serve, path):
        token(path)
        port = serve()
        host, _, number = port.address.rpartition(":")
        with socket.create_connection((host, int(number)), WAIT_S) as raw:
            frame = p.encode_frame(p.Infer(1, "m", ()))[0]
            raw.sendall(p.PREFIX.pack(len(frame) - 8, 32 << 20) + frame[8:])
            data = b"".join(iter(lambda: raw.recv(65536), b""))
        error = p.decode_to_client(FrameReader().feed(data)[1].header)
        assert (error.code, error.message) == (
            "remote_protocol",
            "the first frame, and only the first, must be ClientHello",
        )

    def test_the_scope_is_needed_and_the_connection_goes_on(self, serve, path):
        text = token(path, Limits(("admin",)))
        with Client(serve().address, token=text) as client:
            for _ in range(2):
                with pytest.raises(ForbiddenError, match="scope infer"):
                    client.infer("m", X)
                assert client.describe() == {}

    def test_revoking_ends_connections_and_what_they_wait_for(self, serve, path):
        text = token(path)
        port = serve()
        port.hold = True
        with Client(port.address, token=text) as client:
            waiting = client.submit("m", X, deadline_s=WAIT_S)
            eventually(lambda: port.held)
            revoke_tokens(path, "camera")
            with pytest.raises(AuthenticationError, match="revoked"):
                waiting.result(WAIT_S)
            with pytest.raises(AuthenticationError, match="not one of this gateway's"):
                client.infer("m", X, deadline_s=WAIT_S)

    def test_unanswered_requests_are_limited_and_repeated_by_the_client(self, serve, path):
        text = token(path, Limits(in_flight=1))
        port = serve()
        port.hold = True
        with (
            Client(port.address, token=text, retry=None) as hasty,
            Client(port.address, token=text, retry=EAGER) as calm,
        ):
            first = hasty.submit("m", X)
            eventually(lambda: port.held)
            with pytest.raises(RejectedError, match="the token camera allows 1 unanswered") as caught:
                hasty.infer("m", X)
            assert caught.value.retry_after_s == pytest.approx(0.1)
            patient = calm.submit("m", X)
            eventually(lambda: len(port.limits) > 1)
            port.release()
            assert first.result(WAIT_S) and patient.result(WAIT_S)
        assert set(port.limits) == {"camera"}

    def test_a_connection_that_breaks_gives_back_what_it_took(self, serve, path):
        text = token(path, Limits(in_flight=1))
        port = serve()
        port.hold = True
        with Client(port.address, token=text, retry=None) as client:
            client.submit("m", X)
            eventually(lambda: port.held)
        port.hold = False
        with Client(port.address, token=text, retry=EAGER) as client:
            assert echoed(client, X)

    def test_requests_come_no_faster_than_allowed(self, serve, path):
        text = token(path, Limits(rate=0.01))
        with Client(serve().address, token=text, retry=None) as client:
            client.infer("m", X)
            with pytest.raises(RejectedError, match=r"allows 0\.01 requests per second") as caught:
                client.infer("m", X)
            assert 0 < caught.value.retry_after_s <= 100
            with pytest.raises(RejectedError):
                client.describe()


class TestTls:
    @pytest.fixture
    def cert(self, certificates: Any) -> SimpleNamespace:
        c = certificates
        return SimpleNamespace(
            files=(c.gateway, c.gateway_key), mutual=(c.gateway, c.gateway_key, c.ca), ca=c.ca, other=c.other,
            own=Tls(c.ca, c.client, c.client_key), all=c,
        )  # fmt: skip

    def test_both_clients_speak_it(self, serve, path, cert):
        text = token(path)
        port = serve(*cert.files)

        async def ask() -> None:
            async with AsyncClient(port.name, token=text, tls=Tls(cert.ca)) as client:
                answers = await asyncio.gather(*(client.infer("m", LARGE) for _ in range(4)))
                assert all(np.array_equal(one.outputs["x"], LARGE["x"]) for one in answers)

        assert port.name.startswith("tls://127.0.0.1:")
        with Client(port.address, token=text, tls=Tls(cert.ca)) as client:
            assert all(client.infer_many("m", [LARGE] * 8, concurrency=4)) and echoed(client, X)
        asyncio.run(ask())

    def test_the_address_and_the_environment_may_say_so(self, serve, cert, monkeypatch):
        port = serve(*cert.files)
        monkeypatch.setenv("STAGELINE_CA_FILE", str(cert.ca))
        for address in (port.address, port.name, port.name.replace("127.0.0.1", "localhost")):
            with Client(address) as client:
                assert echoed(client, X)
        with pytest.raises(ConfigError, match="speaks TLS, which is switched off"):
            Client(port.name, tls=False)

    @pytest.mark.parametrize("kind", [Client, AsyncClient])
    @pytest.mark.parametrize(("authority", "name", "wanted"), [
        ("other", "", "does not prove who it is .*issuer"), ("ca", "elsewhere", "does not prove who it is .*mismatch"),
    ])  # fmt: skip
    def test_a_gateway_that_is_not_believed(self, serve, cert, kind, authority, name, wanted):
        tls = Tls(getattr(cert, authority), server_name=name)
        with pytest.raises(AuthenticationError, match=wanted):
            connect(kind, serve(*cert.files).address, tls=tls)

    @pytest.mark.parametrize("kind", [Client, AsyncClient])
    def test_a_client_needs_a_certificate_where_the_gateway_asks_for_one(self, serve, cert, kind):
        port = serve(*cert.mutual)
        connect(kind, port.address, tls=cert.own)
        strange = Tls(cert.ca, cert.other, cert.all.other_key)
        for tls in (Tls(cert.ca), strange):
            with pytest.raises(ConnectionLostError, match="before it greeted: does it ask for a certificate"):
                connect(kind, port.address, tls=tls)
        eventually(lambda: len(port.away) == 2)
        assert [str(error) for error in port.away] == ["peer did not return a certificate", "certificate verify failed"]

    @pytest.mark.parametrize("kind", [Client, AsyncClient])
    def test_plain_and_tls_do_not_meet(self, serve, cert, kind):
        with pytest.raises(ConnectionLostError, match="did not greet within"):
            connect(kind, serve(*cert.files).address, connect_timeout_s=0.3)
        with pytest.raises(AuthenticationError, match="does that gateway speak TLS"):
            connect(kind, serve().address, tls=Tls(cert.ca))

    def test_a_new_certificate_counts_without_a_restart_and_a_damaged_one_does_not(self, serve, cert, tmp_path):
        files = [tmp_path / name for name in ("cert", "key")]
        for file, source in zip(files, cert.files, strict=True):
            shutil.copy(source, file)
        port = serve(*files)
        connect(Client, port.address, tls=Tls(cert.ca))
        files[0].write_text("no certificate")
        port.call(port._port.look)
        connect(Client, port.address, tls=Tls(cert.ca))
        shutil.copy(cert.other, files[0])
        shutil.copy(cert.all.other_key, files[1])
        port.call(port._port.look)
        with pytest.raises(AuthenticationError):
            connect(Client, port.address, tls=Tls(cert.ca))
        connect(Client, port.address, tls=unnamed(cert.other))

    def test_unfinished_handshakes_are_limited(self, serve, cert, monkeypatch):
        monkeypatch.setattr(clients, "MAX_HANDSHAKES", 2)
        port = serve(*cert.files)
        host, _, number = port.address.rpartition(":")
        silent = [socket.create_connection((host, int(number)), WAIT_S) for _ in range(2)]
        with socket.create_connection((host, int(number)), WAIT_S) as third:
            assert third.recv(1) == b"", "closed at once"
        for one in silent:
            one.close()
        eventually(lambda: len(port.away) == 2)
        connect(Client, port.address, tls=Tls(cert.ca))


def connect(kind: type[Any], address: str, **how: Any) -> None:
    """Connect, ask something and close."""
    how = {"retry": None, **how}
    if kind is Client:
        with Client(address, **how) as client:
            assert echoed(client, X)
        return

    async def ask() -> None:
        async with AsyncClient(address, **how) as client:
            await client.infer("m", X)

    asyncio.run(ask())


def unnamed(authority: Path) -> Any:
    """A context that does not look at names."""
    context = Tls(authority).context()
    context.check_hostname = False
    return context
