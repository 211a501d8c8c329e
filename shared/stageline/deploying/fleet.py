"""The engines of a site: what is there, where images come from, and the doing of one step."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from stageline.deploying import planning
from stageline.deploying.engine import Engine
from stageline.deploying.planning import BEFORE, Image, Seen, Wanted
from stageline.deploying.site import KEYS, Service, Site
from stageline.docking import HERE
from stageline.errors import ClusterError, ConfigError
from stageline.keyfiles import (
    ADMIN,
    ADMINS,
    COORDINATOR,
    COORDINATOR_KEY,
    COORDINATOR_PUBLIC,
    NODE_KEY,
    NODES,
    add_node,
    init_keys,
)

DATABASE = "coordinator.sqlite3"
KEPT = "before-update.sqlite3"
"""The coordinator's database as it was before an update, which may change its schema."""

VERSION_AT = slice(60, 64)
"""Where an SQLite file says the version of its schema."""


class Fleet:
    """Connections to all engines of a site."""

    def __init__(self, site: Site, engines: dict[str, Engine], here: Engine | None) -> None:
        self.site, self._engines, self._here = site, engines, here

    @staticmethod
    @contextmanager
    def reached(site: Site) -> Iterator[Fleet]:
        """Boxes that are one engine share a connection. Raises `ClusterError` for the first that does not answer."""
        with ExitStack() as stack:
            shared: dict[tuple[str, Path | None], Engine] = {}
            engines: dict[str, Engine] = {}
            for name, box in site.boxes.items():
                key = (box.docker, site.tls(name))
                if key not in shared:
                    shared[key] = _reach(stack, f"box {name}", *key)
                engines[name] = shared[key]
            here = shared.get(("", None))
            if here is None:
                try:
                    here = stack.enter_context(Engine.reached(HERE, "", None))
                except (ClusterError, ConfigError):  # images then come from files, or are on the boxes
                    here = None
            yield Fleet(site, engines, here)

    def __getitem__(self, box: str) -> Engine:
        return self._engines[box]

    @property
    def engines(self) -> list[Engine]:
        """Each once."""
        return list({id(engine): engine for engine in self._engines.values()}.values())

    # --- what is wanted, what is there ----------------------------------------------------------------------

    def wanted(self) -> tuple[Wanted, ...]:
        """Each service with its image. Raises `ConfigError` for an image that is nowhere."""
        archives = {name: Image(name, identity, str(path)) for path in self.site.archives
                    for name, identity in archived(path).items()}  # fmt: skip
        return tuple(Wanted(one, self._image(one, archives)) for one in self.site.services)

    def _image(self, one: Service, archives: dict[str, Image]) -> Image:
        name = one.image if ":" in one.image.rpartition("/")[2] else f"{one.image}:latest"
        if name in archives:
            return archives[name]
        found = self._here.image_id(name) if self._here is not None else ""
        if found:
            return Image(name, found, copied=True)
        there = self[one.box].image_id(name)
        if not there:
            raise ConfigError(
                f"image {one.image} is in none of the archives, not on this machine and not on box {one.box}: "
                "`make images` builds it"
            )
        return Image(name, there)

    def seen(self, wanted: tuple[Wanted, ...]) -> Seen:
        """The site as it is now."""
        containers = []
        for engine in self.engines:
            for found in engine.containers(self.site.name):
                self._engines.setdefault(found.box, engine)  # of a box that the file does not name any more
                containers.append(found)
        images = {(one.service.box, one.image.id) for one in wanted if self[one.service.box].image_id(one.image.id)}
        let_in: frozenset[str] = frozenset()
        for found in containers:
            if found.role == "coordinator":
                let_in |= self[found.box].key_names(found.container)
        return Seen(tuple(containers), frozenset(images), let_in)

    # --- doing ----------------------------------------------------------------------------------------------

    def transfer(self, step: planning.Transfer) -> None:
        """Raises `ClusterError` if the box does not have it afterwards."""
        image, box = step.image, self[step.box]
        if image.archive:
            with Path(image.archive).open("rb") as file:
                box.load(file)
        elif self._here is not None:
            box.load(self._here.save(image.name))
        if not box.image_id(image.name):
            raise ClusterError(f"box {step.box} does not have image {image.name} after it was brought there")

    def create(self, wanted: Wanted) -> None:
        """With its files in its volume, and with its keys, unless there are some: they may have been rotated."""
        engine, one = self[wanted.service.box], wanted.service
        engine.create(self.site.name, wanted)
        keys = {f"{KEYS}/{name}": data for name, data in self._keys(one).items()}
        own = f"{KEYS}/{COORDINATOR_KEY if one.role == 'coordinator' else NODE_KEY}"
        if engine.read(one.container, own):
            keys = {name: data for name, data in keys.items() if name.startswith(f"{KEYS}/{NODES}/")}
        engine.put(one.container, {**one.files, **keys})

    def let_in(self, box: str, container: str, names: frozenset[str]) -> None:
        """Show the coordinator these keys; it lets them in within a second."""
        files = self.site.keys / COORDINATOR / NODES
        self[box].put(container, {f"{KEYS}/{NODES}/{name}.pub": (files / f"{name}.pub").read_bytes() for name in names})

    def make_keys(self) -> None:
        """Those that are missing in the directory of the site."""
        if not (self.site.keys / COORDINATOR / COORDINATOR_KEY).exists():
            init_keys(self.site.keys)
        for one in self.site.services:
            if one.role != "coordinator":
                add_node(self.site.keys, one.name)

    def _keys(self, one: Service) -> dict[str, bytes]:
        """Its own alone."""
        keys = self.site.keys
        if one.role != "coordinator":
            # `keys rotate` leaves the coordinator's new key with the administrator who asked for it.
            public = (keys / ADMIN / COORDINATOR_PUBLIC).read_bytes()
            return {NODE_KEY: (keys / NODES / one.name / NODE_KEY).read_bytes(), COORDINATOR_PUBLIC: public}
        names = [other.name for other in self.site.services if other.role != "coordinator"]
        files = [COORDINATOR_KEY, f"{ADMINS}/{ADMIN}.pub", *(f"{NODES}/{name}.pub" for name in names)]
        return {name: (keys / COORDINATOR / name).read_bytes() for name in files}

    def set_aside(self, box: str, container: str) -> None:
        """With the coordinator's database, if it has one, as it is now: its successor may change it for good."""
        engine = self[box]
        database = engine.read(container, DATABASE)
        if database:
            engine.put(container, {KEPT: database})
        engine.rename(container, container + BEFORE)

    def bring_back(self, box: str, container: str) -> None:
        """Start what was set aside again, in place of its successor."""
        engine = self[box]
        engine.remove(container)
        kept, now = engine.read(container + BEFORE, KEPT), engine.read(container + BEFORE, DATABASE)
        if kept[VERSION_AT] != now[VERSION_AT]:
            engine.put(container + BEFORE, {DATABASE: kept, f"{DATABASE}-wal": b""})
        engine.rename(container + BEFORE, container)
        engine.start(container)


def _reach(stack: ExitStack, name: str, url: str, tls: Path | None) -> Engine:
    try:
        return stack.enter_context(Engine.reached(name, url, tls))
    except (ClusterError, ConfigError) as error:
        raise type(error)(f"{name}: {error.message}") from None


def archived(path: Path) -> dict[str, str]:
    """The images in a file of `docker save`: the id of each by name. Raises `ConfigError` for another file."""
    try:
        with tarfile.open(path) as archive:
            file = archive.extractfile("manifest.json")
            listed = json.loads(file.read()) if file is not None else []
        found = {name: _config_id(one["Config"]) for one in listed for name in one["RepoTags"] or ()}
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from None
    except (tarfile.TarError, KeyError, TypeError, ValueError):
        found = {}
    if not found:
        raise ConfigError(f"{path} holds no image with a name: make it by `docker save -o {path.name} IMAGE`")
    return found


def _config_id(config: str) -> str:
    return "sha256:" + config.rpartition("/")[2].removesuffix(".json")
