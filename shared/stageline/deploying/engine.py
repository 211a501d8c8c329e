"""A box's Docker engine, as far as deploying needs it."""

from __future__ import annotations

import io
import json
import posixpath
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from stageline.deploying.planning import Found, Wanted
from stageline.deploying.site import DATA, KEYS, ROLES, Role
from stageline.docking import LOG_LINES, confined, connected, last_line, one_line, packed

SITE, ROLE, BOX, DIGEST, IMAGE = (f"stageline.{name}" for name in ("site", "role", "box", "digest", "image"))
COMMANDS: Mapping[Role, str] = {role: f"stageline-{role}" for role in ROLES}
ASK = (
    "import http.client as h, json, os; "
    "a = json.load(open(os.environ['STAGELINE_READY_FILE']))['http'].removeprefix('http://'); "
    "c = h.HTTPConnection(a, timeout=5); c.request('GET', '/readyz'); r = c.getresponse(); "
    "print(json.dumps([r.status, json.loads(r.read())]))"
)
"""Run in the container, as the port is on its loopback: works for every version of a service."""


class Engine:
    """Of one box; `name` is how errors call it."""

    def __init__(self, name: str, client: Any) -> None:
        self.name, self._docker = name, client

    @staticmethod
    @contextmanager
    def reached(name: str, url: str, tls: Path | None) -> Iterator[Engine]:
        """Raises `ConfigError` or `ClusterError` as `stageline.docking.connected`."""
        with connected(url, tls) as client:
            yield Engine(name, client)

    # --- images ---------------------------------------------------------------------------------------------

    def image_id(self, name: str) -> str:
        """Empty where there is no such image."""
        from docker.errors import ImageNotFound

        with one_line(self.name):
            try:
                return str(self._docker.images.get(name).id)
            except ImageNotFound:
                return ""

    def save(self, name: str) -> Iterator[bytes]:
        """The image as `docker save` writes it."""
        with one_line(self.name):
            yield from self._docker.images.get(name).save(named=name)

    def load(self, pieces: Any) -> None:
        """What `docker save` wrote: bytes piece by piece, or a file."""
        with one_line(self.name):
            self._docker.images.load(pieces)

    # --- containers -----------------------------------------------------------------------------------------

    def containers(self, site: str) -> list[Found]:
        """Those of a site, of every box that this engine is."""
        with one_line(self.name):
            found = self._docker.api.containers(all=True, filters={"label": f"{SITE}={site}"})
        return [self._found(one) for one in found]

    def _found(self, one: Mapping[str, Any]) -> Found:
        labels, state = one["Labels"], str(one["State"])
        role = cast(Role, labels[ROLE])
        joined = state == "running" and self.joined(one["Id"], role)
        name = one["Names"][0].lstrip("/")
        return Found(labels[BOX], role, name, labels[DIGEST], labels[IMAGE], state, joined)

    def joined(self, container: str, role: Role) -> bool:
        """Whether the service in it says that it takes part in the cluster."""
        from docker.errors import APIError

        with one_line(self.name):
            try:
                done = self._docker.api.exec_create(container, ["python", "-c", ASK], stderr=False)
                return takes_part(role, self._docker.api.exec_start(done["Id"]))
            except APIError:  # it has just ended
                return False

    def create(self, site: str, wanted: Wanted) -> None:
        """A container that has not started yet, with a volume that it keeps over its successors."""
        from docker.types import LogConfig, Mount

        one = wanted.service
        labels = {SITE: site, ROLE: one.role, BOX: one.box, DIGEST: wanted.digest, IMAGE: wanted.image.id}
        with one_line(self.name):
            self._docker.volumes.create(one.container, labels={SITE: site})
            self._docker.containers.create(
                wanted.image.id if self.image_id(wanted.image.id) else wanted.image.name,
                [COMMANDS[one.role]],
                name=one.container,
                labels=labels,
                environment=dict(one.environment),
                mounts=[Mount(DATA, one.container, type="volume")],
                network_mode="host",
                restart_policy={"Name": "unless-stopped"},
                log_config=LogConfig(type="json-file", config={"max-size": "10m", "max-file": "3"}),
                **confined(),
            )

    def put(self, container: str, files: Mapping[str, bytes]) -> None:
        """Into its volume, for the services' user alone."""
        with one_line(self.name):
            self._docker.api.put_archive(container, DATA, packed(files))

    def read(self, container: str, path: str) -> bytes:
        """A file of its, running or not; empty where there is none."""
        with self._archive(container, path) as archive:
            file = archive.extractfile(archive.next() or tarfile.TarInfo()) if archive is not None else None
            return file.read() if file is not None else b""

    def key_names(self, container: str) -> frozenset[str]:
        """Whom the files of a coordinator let in."""
        with self._archive(container, f"{KEYS}/nodes") as archive:
            names = [posixpath.basename(name) for name in archive.getnames()] if archive is not None else []
        return frozenset(name.removesuffix(".pub") for name in names if name.endswith(".pub"))

    def forget_keys(self, container: str, names: frozenset[str]) -> None:
        """Take those files away again; the container has to run."""
        with one_line(self.name):
            files = [f"{DATA}/{KEYS}/nodes/{name}.pub" for name in sorted(names)]
            done = self._docker.api.exec_create(container, ["rm", "-f", "--", *files])
            self._docker.api.exec_start(done["Id"])

    def start(self, container: str) -> None:
        """Also one that has ended."""
        with one_line(self.name):
            self._docker.api.start(container)

    def stop(self, container: str, grace_s: int) -> None:
        """SIGTERM, and after so many seconds SIGKILL."""
        with one_line(self.name):
            self._docker.api.stop(container, timeout=grace_s)

    def rename(self, container: str, name: str) -> None:
        """While it runs or not."""
        with one_line(self.name):
            self._docker.api.rename(container, name)

    def remove(self, container: str) -> None:
        """Its volume stays. Nothing where it is gone already."""
        from docker.errors import NotFound

        with one_line(self.name):
            try:
                self._docker.api.remove_container(container, force=True)
            except NotFound:
                return

    def remove_volumes(self, site: str) -> list[str]:
        """All data and keys of a site on this engine; returns their names."""
        with one_line(self.name):
            found = self._docker.volumes.list(filters={"label": f"{SITE}={site}"})
            for volume in found:
                volume.remove()
            return [str(volume.name) for volume in found]

    def restarts(self, container: str) -> int:
        """How often Docker has started it again after it had ended."""
        with one_line(self.name):
            return int(self._docker.api.inspect_container(container)["RestartCount"])

    def ended(self, container: str, restarts: int) -> str:
        """How a container ended that had been started again so often; empty while it goes on."""
        with one_line(self.name):
            about = self._docker.api.inspect_container(container)
        state = about["State"]
        if state["Status"] == "running" and about["RestartCount"] <= restarts:
            return ""
        last = last_line(self._log(container, LOG_LINES), "it wrote nothing")
        memory = "out of memory, " if state.get("OOMKilled") else ""
        return f"{memory}it ended with exit code {state['ExitCode']}: {last}"

    def log(self, container: str, lines: int) -> str:
        """The last lines that it wrote."""
        return self._log(container, lines).decode(errors="replace")

    def _log(self, container: str, lines: int) -> bytes:
        with one_line(self.name):
            return bytes(self._docker.api.logs(container, tail=lines))

    @contextmanager
    def _archive(self, container: str, path: str) -> Iterator[tarfile.TarFile | None]:
        """A file or folder of its volume, running or not; None where there is none."""
        from docker.errors import NotFound

        with one_line(self.name):
            try:
                pieces, _ = self._docker.api.get_archive(container, f"{DATA}/{path}")
            except NotFound:
                yield None
                return
            with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as archive:
                yield archive


def takes_part(role: Role, said: bytes) -> bool:
    """By what its /readyz answered: a gateway has no models to serve at first, but knows the coordinator."""
    try:
        status, body = json.loads(said)
        return bool(status == 200 or (role == "gateway" and body.get("coordinator") == "connected"))
    except (ValueError, TypeError, AttributeError):
        return False
