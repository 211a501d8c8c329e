"""Docker, as far as an emulation needs it. Errors are one line each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from stageline.docking import HERE, LOG_LINES, confined, connected, engine_here, last_line, one_line, packed
from stageline.errors import ConfigError


@dataclass(frozen=True)
class Recipe:
    """A container to be. `volumes`: folders that may be written and go with it; `network`: a network's name, or
    ``container:ID`` to be in that container's; `limits`: of processor and memory, as the SDK calls them."""

    name: str
    image: str
    command: Sequence[str]
    network: str
    labels: Mapping[str, str]
    environment: Mapping[str, str] = field(default_factory=dict)
    volumes: Sequence[str] = ()
    limits: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Thing:
    """A container or network."""

    kind: str
    id: str
    name: str
    labels: Mapping[str, str]


class Engine:
    """A connection to the Docker engine of this machine; a thread of its own needs one of its own."""

    def __init__(self) -> None:
        """Raises `ConfigError` without the SDK or for an engine elsewhere, `ClusterError` when none answers."""
        self._stack = ExitStack()
        self._docker = self._stack.enter_context(connected(engine_here()))
        with one_line(HERE):
            about = self._docker.info()
        self.cpus, self.memory_mib = int(about["NCPU"]), int(about["MemTotal"]) >> 20

    def close(self) -> None:
        """Give the connection back."""
        self._stack.close()

    @one_line(HERE)
    def check_image(self, name: str, flag: str) -> None:
        """Raises `ConfigError` where the image is not on this machine: nothing is pulled."""
        from docker.errors import ImageNotFound

        try:
            self._docker.images.get(name)
        except ImageNotFound:
            raise ConfigError(f"there is no image {name}: `make images` builds it, or name another by {flag}") from None

    @one_line(HERE)
    def create_network(self, name: str, labels: Mapping[str, str]) -> None:
        """A bridge with no way out of this machine."""
        self._docker.networks.create(name, driver="bridge", internal=True, labels=dict(labels))

    @one_line(HERE)
    def create(self, recipe: Recipe) -> str:
        """A container that has not started yet; its id. It can change nothing but its volumes and /tmp."""
        from docker.types import Mount

        shares = recipe.network.startswith("container:")
        container = self._docker.containers.create(
            recipe.image,
            list(recipe.command),
            name=recipe.name,
            labels=dict(recipe.labels),
            environment=dict(recipe.environment),
            mounts=[Mount(target, None, type="volume") for target in recipe.volumes],
            healthcheck={"test": ["NONE"]},  # each costs a twelfth of a CPU second, which is much for a small box
            **({"network_mode": recipe.network} if shares else {"network": recipe.network}),
            **recipe.limits,
            **confined(),
        )
        return str(container.id)

    @one_line(HERE)
    def put(self, container: str, folder: str, files: Mapping[str, bytes]) -> None:
        """Files for the services' user alone, into a volume that is mounted at `folder`."""
        self._docker.api.put_archive(container, folder, packed(files))

    @one_line(HERE)
    def start(self, container: str) -> None:
        """Also one that has ended."""
        self._docker.api.start(container)

    @one_line(HERE)
    def kill(self, container: str) -> None:
        """SIGKILL to all that is in it."""
        self._docker.api.kill(container)
        self._docker.api.wait(container)

    @one_line(HERE)
    def pause(self, container: str, paused: bool) -> None:
        """Stop all of its processes where they are, or continue them."""
        (self._docker.api.pause if paused else self._docker.api.unpause)(container)

    @one_line(HERE)
    def pid(self, container: str) -> int:
        """Of its first process, as the machine knows it; 0 when it does not run."""
        return int(self._docker.api.inspect_container(container)["State"]["Pid"])

    @one_line(HERE)
    def address(self, container: str) -> str:
        """Its IP address in its network."""
        (network,) = self._docker.api.inspect_container(container)["NetworkSettings"]["Networks"].values()
        return str(network["IPAddress"])

    @one_line(HERE)
    def exited(self, label: str) -> set[str]:
        """The containers with that label which have ended: their ids."""
        here = {"label": label, "status": ["exited", "dead"]}
        return {str(one["Id"]) for one in self._docker.api.containers(all=True, filters=here)}

    @one_line(HERE)
    def ended(self, container: str) -> str:
        """How a container ended, with the last line it wrote; empty while it runs."""
        state = self._docker.api.inspect_container(container)["State"]
        if state["Running"]:
            return ""
        last = last_line(self._docker.api.logs(container, tail=LOG_LINES), "it wrote nothing")
        memory = "it was out of memory, " if state.get("OOMKilled") else ""
        return f"exit code {state['ExitCode']}: {memory}{last}"

    def lines(self, container: str) -> Iterator[bytes]:
        """What it writes on stdout, line by line, until it ends."""
        rest = b""
        for piece in self._docker.api.logs(container, stderr=False, stream=True, follow=True):
            *whole, rest = (rest + piece).split(b"\n")
            yield from whole

    @one_line(HERE)
    def labelled(self, label: str) -> list[Thing]:
        """Containers first, as networks can only go after them."""
        here = {"label": label}
        containers = self._docker.api.containers(all=True, filters=here)
        found = [Thing("container", one["Id"], one["Names"][0].lstrip("/"), one["Labels"]) for one in containers]
        networks = self._docker.api.networks(filters=here)
        return found + [Thing("network", one["Id"], one["Name"], one["Labels"]) for one in networks]

    @one_line(HERE)
    def remove(self, thing: Thing) -> None:
        """With its volumes; nothing where it is gone already."""
        from docker.errors import NotFound

        try:
            if thing.kind == "network":
                self._docker.api.remove_network(thing.id)
            else:
                self._docker.api.remove_container(thing.id, v=True, force=True)
        except NotFound:
            return
