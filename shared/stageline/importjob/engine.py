"""Docker, as far as an import needs it: a container that lives as long as our connection to its stdin."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stageline import owners
from stageline.docking import HERE, UID, confined, connected, one_line
from stageline.errors import ClusterError, ConfigError, ModelImportError

OWNER = "stageline.import.owner"
FOLDER = "/var/cache/stageline"
"""In the container; a volume that goes with it, as its tmpfs would count as memory."""

COMMAND = ["python", "-m", "stageline_stage.importjob", FOLDER]
PROCESSES = 1024
LITTLE = 128
"""Weight of its processor time: a service has 1024."""

FIRST_KILLED = 800
"""Its OOM score: a machine that runs out of memory takes it before any service."""

ABANDONED_S = 3600.0
LATE_S = 1.0
"""How long Docker may take to make what it was asked for last."""

STDOUT, STDERR = 1, 2
HEADER_BYTES, PIECE_BYTES = 8, 1 << 16


@dataclass(frozen=True)
class Recipe:
    """A job's container. `network`: whether it may reach one; `memory_bytes`: its limit."""

    image: str
    memory_bytes: int
    network: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)


class Engine:
    """One of this machine or another; `name` is how errors call it."""

    def __init__(self, name: str, client: Any) -> None:
        self.name, self._docker = name, client
        with one_line(name):
            about = client.info()
        self.memory_bytes = int(about["MemTotal"])
        self.architecture = str(client.version().get("Arch", ""))
        """As images name it: amd64, arm64."""

    @staticmethod
    @contextmanager
    def reached(url: str, tls: Path | None = None) -> Iterator[Engine]:
        """Raises `ConfigError` or `ClusterError` as `stageline.docking.connected`."""
        with connected(url, tls) as client:
            yield Engine(url or HERE, client)

    def image_architecture(self, name: str) -> str:
        """As images name it. Raises `ConfigError` where the image is not there: nothing is pulled."""
        from docker.errors import ImageNotFound

        with one_line(self.name):
            try:
                return str(self._docker.images.get(name).attrs.get("Architecture", ""))
            except ImageNotFound:
                raise ConfigError(
                    f"Docker at {self.name} has no image {name}: build it there (`make images`), load it there "
                    f"(`docker save {name} | docker -H … load`), or name another by --image"
                ) from None

    @contextmanager
    def container(self, recipe: Recipe) -> Iterator[Container]:
        """It has started; it and all that it wrote is gone after the block, however that ends.

        Raises `ClusterError`.
        """
        name = f"stageline-import-{uuid.uuid4().hex[:8]}"
        made: Container | None = None
        try:
            with one_line(self.name):
                self._create(name, recipe)
                made = Container(self.name, self._docker.api, name)
                self._docker.api.start(name)
            yield made
        finally:
            if made is not None:
                made.hang_up()
            if not self._remove(name) and made is None:
                time.sleep(LATE_S)  # whoever was interrupted may have asked for something that comes later
                self._remove(name)

    def collect(self) -> list[str]:
        """Remove what imports have left whose command is gone; returns the names."""
        with one_line(self.name):
            found = self._docker.api.containers(all=True, filters={"label": OWNER})
        left = [one["Names"][0].lstrip("/") for one in found if abandoned(one, time.time())]
        gone = [name for name in left if self._remove(name)]
        with one_line(self.name):
            for volume in self._docker.volumes.list(filters={"label": OWNER, "dangling": True}):
                volume.remove(force=True)
                gone.append(f"the volume {volume.name}")
        return gone

    def _create(self, name: str, recipe: Recipe) -> None:
        from docker.types import Mount

        owner = {OWNER: owners.this_process()}
        self._docker.containers.create(
            recipe.image,
            entrypoint=COMMAND,
            name=name,
            labels=owner,
            environment=dict(recipe.environment),
            use_config_proxy=recipe.network,
            network_mode="bridge" if recipe.network else "none",
            mounts=[Mount(FOLDER, None, type="volume", labels=owner)],
            user=f"{UID}:{UID}",
            stdin_open=True,
            auto_remove=True,
            healthcheck={"test": ["NONE"]},
            mem_limit=recipe.memory_bytes,
            memswap_limit=recipe.memory_bytes,
            pids_limit=PROCESSES,
            cpu_shares=LITTLE,
            oom_score_adj=FIRST_KILLED,
            **confined(),
        )

    def _remove(self, name: str) -> bool:
        """Whether there was one."""
        from docker.errors import APIError, NotFound

        with one_line(self.name):
            try:
                self._docker.api.remove_container(name, v=True, force=True)
            except NotFound:
                return False
            except APIError as error:
                if error.status_code != 409:  # it is going already
                    raise
        return True


class Container:
    """Its other end. When this connection ends, for whatever reason, the job ends and Docker removes its container."""

    def __init__(self, engine: str, api: Any, name: str) -> None:
        self._engine, self._api, self._name = engine, api, name
        self._attached = api.attach_socket(name, {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
        self._socket = getattr(self._attached, "_sock", self._attached)
        self._socket.settimeout(None)

    def put(self, pieces: Iterator[bytes]) -> None:
        """Unpack an archive in the job's folder."""
        with one_line(self._engine):
            self._api.put_archive(self._name, FOLDER, pieces)

    def fetch(self, path: str) -> Iterator[bytes]:
        """An archive of what is at a path of that folder, piece by piece. Raises `ModelImportError` for nothing."""
        from docker.errors import NotFound

        with one_line(self._engine):
            try:
                pieces, _ = self._api.get_archive(self._name, f"{FOLDER}/{path}")
            except NotFound:
                raise ModelImportError(f"the import left no {path}, or its container is gone: try again") from None
            yield from pieces

    def say(self, line: bytes) -> None:
        """To the job's stdin."""
        with self._connection():
            self._socket.sendall(line)

    def hears(self) -> Iterator[tuple[int, bytes]]:
        """What it writes, until it ends: `STDOUT` or `STDERR`, and bytes (Docker's multiplexed stream)."""
        while len(header := self._read(HEADER_BYTES)) == HEADER_BYTES:
            left = int.from_bytes(header[4:], "big")
            while left and (piece := self._read(min(left, PIECE_BYTES))):
                left -= len(piece)
                yield header[0], piece

    def hang_up(self) -> None:
        """End the connection."""
        with contextlib.suppress(OSError):
            self._socket.close()
            self._attached.close()

    def _read(self, count: int) -> bytes:
        """So many bytes; fewer where there are no more."""
        found = b""
        with self._connection():
            while len(found) < count and (piece := self._socket.recv(count - len(found))):
                found += piece
        return found

    @contextmanager
    def _connection(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ClusterError(f"Docker at {self._engine}: the connection to the import broke ({error})") from None


def abandoned(one: Mapping[str, Any], now: float) -> bool:
    """Whether a container as Docker lists it is of an import whose command is gone.

    Of another machine's command it is known only that its container runs as long as it does.
    """
    owner = one["Labels"].get(OWNER, "")
    if owners.is_here(owner):
        return not owners.lives(owner)
    return bool(one["State"] != "running" and now - one["Created"] > ABANDONED_S)
