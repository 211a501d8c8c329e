"""What is there and what is wanted, and the steps from the one to the other. Pure.

A container is replaced so that at every moment one of its kind can be started: the old one is stopped, which drains it,
and set aside under another name; the new one is made, started and waited for; only then the old one goes. Whatever
a deployment that was cut short left behind is one of the states in between, and the steps go on from there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Union

from stageline.deploying.site import ROLES, Role, Service

BEFORE = ".before"
"""Ends the name of a container that was set aside."""


@dataclass(frozen=True)
class Image:
    """An image that a service is to run: its name, the id of its content, and the file that it comes from, if any.

    `copied`: from the engine of this machine. Neither: it is on the box.
    """

    name: str
    id: str
    archive: str = ""
    copied: bool = False


@dataclass(frozen=True)
class Wanted:
    """A container to be. `digest` changes with anything about it."""

    service: Service
    image: Image

    @property
    def digest(self) -> str:
        """Of all that makes the container what it is."""
        one = self.service
        files = [(name, hashlib.sha256(data).hexdigest()) for name, data in sorted(one.files.items())]
        parts = [one.role, one.name, self.image.id, sorted(one.environment.items()), files, one.grace_s]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Found:
    """A container of the site that there is. `state`: as Docker calls it; `joined`: it says that it takes part."""

    box: str
    role: Role
    container: str
    digest: str
    image: str
    state: str
    joined: bool = False

    @property
    def aside(self) -> bool:
        """Whether it was set aside for another."""
        return self.container.endswith(BEFORE)


@dataclass(frozen=True)
class Seen:
    """A site as it is. `images`: which boxes have which, (box, id); `let_in`: whom the coordinator's files name."""

    containers: tuple[Found, ...] = ()
    images: frozenset[tuple[str, str]] = frozenset()
    let_in: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Transfer:
    """Bring an image to a box."""

    box: str
    image: Image


@dataclass(frozen=True)
class LetIn:
    """Show the coordinator the keys of these."""

    box: str
    container: str
    names: frozenset[str]


@dataclass(frozen=True)
class LetOut:
    """Have the coordinator forget the keys of these."""

    box: str
    container: str
    names: frozenset[str]


@dataclass(frozen=True)
class Stop:
    """SIGTERM, which drains it."""

    box: str
    container: str
    grace_s: int


@dataclass(frozen=True)
class SetAside:
    """Give it another name."""

    box: str
    container: str


@dataclass(frozen=True)
class Create:
    """Make it, with its keys."""

    wanted: Wanted


@dataclass(frozen=True)
class Start:
    """Let it run."""

    box: str
    container: str


@dataclass(frozen=True)
class Await:
    """Wait until it takes part; if it does not come, take it away and have the one back that was set aside."""

    wanted: Wanted
    fallback: bool


@dataclass(frozen=True)
class Drop:
    """Remove the container; its volume stays."""

    box: str
    container: str


Step = Union[Transfer, LetIn, LetOut, Stop, SetAside, Create, Start, Await, Drop]


@dataclass(frozen=True)
class Change:
    """What is done to one container, or one image, and why."""

    box: str
    what: str
    why: str
    steps: tuple[Step, ...] = field(default=())


def plan(wanted: Iterable[Wanted], seen: Seen) -> tuple[Change, ...]:
    """In order: images, then coordinator, gateways and workers, one at a time, then what is not wanted any more."""
    wanted = tuple(wanted)
    current = {one.container: one for one in seen.containers if not one.aside}
    aside = {one.container.removesuffix(BEFORE): one for one in seen.containers if one.aside}
    names = frozenset(one.service.name for one in wanted if one.service.role != "coordinator")
    services: list[Change] = []
    for one in wanted:
        name = one.service.container
        services += _service(one, current.get(name), aside.get(name))
        if one.service.role == "coordinator" and not _is_made(services):  # a new one is made with all keys
            services += _keys(one, "let in", LetIn, names - seen.let_in)
    touched = {step.wanted.service.container for one in services for step in one.steps if isinstance(step, Create)}
    images = _images((one for one in wanted if one.service.container in touched), seen)
    gone = _unwanted({one.service.container for one in wanted}, current, aside)
    out = [
        change
        for one in wanted
        if one.service.role == "coordinator"
        for change in _keys(one, "let out", LetOut, seen.let_in - names)
    ]
    return (*images, *services, *gone, *out)


def _is_made(changes: Iterable[Change]) -> bool:
    return any(isinstance(step, Create) for one in changes for step in one.steps)


def _images(wanted: Iterable[Wanted], seen: Seen) -> list[Change]:
    missing = {(one.service.box, one.image.id): one.image for one in wanted}
    return [
        Change(box, f"image {image.name}", f"from {image.archive or 'this machine'}", (Transfer(box, image),))
        for (box, identity), image in missing.items()
        if (box, identity) not in seen.images and (image.archive or image.copied)
    ]


def _keys(coordinator: Wanted, way: str, step: type[LetIn | LetOut], names: frozenset[str]) -> list[Change]:
    one = coordinator.service
    if not names:
        return []
    return [
        Change(one.box, "coordinator", f"{way}: {', '.join(sorted(names))}", (step(one.box, one.container, names),))
    ]


def _service(wanted: Wanted, current: Found | None, aside: Found | None) -> list[Change]:
    box, name = wanted.service.box, wanted.service.container
    fallback, fresh = aside is not None, current is not None and current.digest == wanted.digest
    after: tuple[Step, ...] = (Drop(box, name + BEFORE),) if fallback else ()
    make: tuple[Step, ...] = (Create(wanted), Start(box, name))
    if current is not None and fresh and current.joined:
        return [Change(box, wanted.service.role, "goes on: it is there, the old one goes", after)] if after else []
    if current is not None and fresh:
        start: tuple[Step, ...] = () if current.state == "running" else (Start(box, name),)
        return [Change(box, wanted.service.role, f"is {current.state}", (*start, Await(wanted, fallback), *after))]
    if current is not None and not fallback:
        old = (Stop(box, name, wanted.service.grace_s), SetAside(box, name))
        steps = (*old, *make, Await(wanted, True), Drop(box, name + BEFORE))
        return [Change(box, wanted.service.role, _why(wanted, current), steps)]
    why = "new" if not fallback else "goes on where it was cut short"
    drop: tuple[Step, ...] = (Drop(box, name),) if current is not None else ()
    return [Change(box, wanted.service.role, why, (*drop, *make, Await(wanted, fallback), *after))]


def _why(wanted: Wanted, current: Found) -> str:
    if current.image != wanted.image.id:
        return f"image {short(current.image)} → {short(wanted.image.id)}"
    return "settings changed"


def _unwanted(wanted: set[str], current: Mapping[str, Found], aside: Mapping[str, Found]) -> list[Change]:
    gone = [one for found in (current, aside) for name, one in found.items() if name not in wanted]
    return removal(gone)


def removal(containers: Iterable[Found]) -> list[Change]:
    """Workers first, so that they can leave, the coordinator last."""
    ordered = sorted(containers, key=lambda one: (-ROLES.index(one.role), one.box, one.container))
    return [
        Change(one.box, one.role, f"{one.container} is not wanted", (Stop(one.box, one.container, 30), _drop(one)))
        for one in ordered
    ]


def _drop(one: Found) -> Drop:
    return Drop(one.box, one.container)


def short(identity: str) -> str:
    """Of an image, as people see it."""
    return identity.removeprefix("sha256:")[:12] or "none"
