"""A site, and engines in memory that refuse what Docker refuses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from stageline.deploying.applying import Applier
from stageline.deploying.planning import (
    BEFORE,
    Change,
    Found,
    Image,
    Seen,
    Transfer,
    Wanted,
    plan,
)
from stageline.deploying.site import Service, Site, read_site

FILE = """
site: shop
wait_s: 5
boxes:
  hub: {address: 10.0.0.1, runs: [coordinator, gateway]}
  one: {address: 10.0.0.2, docker: ssh://pi@10.0.0.2, runs: [stage], stage: {threads: 2}}
  two: {address: 10.0.0.3, docker: tcp://10.0.0.3:2376, tls: certs, runs: [stage]}
"""
OLD, NEW, BROKEN = ("sha256:" + letter * 64 for letter in "abc")


class Cut(Exception):  # noqa: N818  not an error of ours
    """The deployment ends here."""


def site(folder: Path, text: str = FILE) -> Site:
    """As read from a file."""
    (folder / "site.yaml").write_text(text)
    return read_site(folder / "site.yaml")


def wanted(about: Site, image: str = OLD, **changed: str) -> tuple[Wanted, ...]:
    """All services, of `image`; `changed` are settings of all workers."""

    def service(one: Service) -> Service:
        more = {f"STAGELINE_{name.upper()}": value for name, value in changed.items()} if one.role == "stage" else {}
        return replace(one, environment={**one.environment, **more})

    return tuple(Wanted(service(one), Image(one.image, image, copied=True)) for one in about.services)


@dataclass
class Box:
    """A container in memory."""

    found: Found
    restarts: int = 0


class Engines:
    """A `Fleet` and its `Engine`s: what they are asked is in `done`; after `cut` requests the deployment ends."""

    def __init__(self, about: Site, cut: int = -1) -> None:
        self.site, self.cut = about, cut
        self.done: list[str] = []
        self.boxes: dict[str, Box] = {}
        self.images: set[tuple[str, str]] = set()
        self.let: set[str] = set()
        self.watch: Callable[[], None] = lambda: None

    def __getitem__(self, box: str) -> Engines:
        return self

    def seen(self) -> Seen:
        return Seen(tuple(box.found for box in self.boxes.values()), frozenset(self.images), frozenset(self.let))

    def deploy(self, services: tuple[Wanted, ...]) -> tuple[Change, ...]:
        """Plan, and do it. Time stands still but for sleeping."""
        changes = plan(services, self.seen())
        now = [0.0]

        def sleep(seconds: float) -> None:
            now[0] += seconds

        Applier(self, lambda: now[0], sleep).apply(changes)  # type: ignore[arg-type]
        return changes

    def _did(self, what: str) -> None:
        if self.cut == len(self.done):
            raise Cut
        self.done.append(what)

    def _set(self, name: str, **changed: object) -> None:
        box = self.boxes[name]
        box.found = replace(box.found, **changed)  # type: ignore[arg-type]
        self.watch()

    # --- what a fleet does ----------------------------------------------------------------------------------

    def transfer(self, step: Transfer) -> None:
        self._did(f"transfer {step.box}")
        self.images.add((step.box, step.image.id))

    def create(self, one: Wanted) -> None:
        name = one.service.container
        assert name not in self.boxes, f"the name {name} is taken"
        assert (one.service.box, one.image.id) in self.images, "no such image"
        self._did(f"create {name}")
        found = Found(one.service.box, one.service.role, name, one.digest, one.image.id, "created")
        self.boxes[name] = Box(found)
        if one.service.role == "coordinator":
            self.let |= {other.name for other in self.site.services if other.role != "coordinator"}

    def let_in(self, box: str, container: str, names: frozenset[str]) -> None:
        assert container in self.boxes
        self._did(f"let in {sorted(names)}")
        self.let |= names

    def set_aside(self, box: str, container: str) -> None:
        self.rename(container, container + BEFORE)

    def bring_back(self, box: str, container: str) -> None:
        self.remove(container)
        self.rename(container + BEFORE, container)
        self.start(container)

    # --- what an engine does ----------------------------------------------------------------------------------

    def forget_keys(self, container: str, names: frozenset[str]) -> None:
        assert self.boxes[container].found.state == "running"
        self._did(f"let out {sorted(names)}")
        self.let -= names

    def start(self, container: str) -> None:
        twin = container.removesuffix(BEFORE) if container.endswith(BEFORE) else container + BEFORE
        assert twin not in self.boxes or self.boxes[twin].found.state != "running", "both would run"
        self._did(f"start {container}")
        self._set(container, state="running", joined=self.boxes[container].found.image != BROKEN)

    def stop(self, container: str, grace_s: int) -> None:
        assert grace_s >= 15
        self._did(f"stop {container}")
        self._set(container, state="exited", joined=False)

    def rename(self, container: str, name: str) -> None:
        assert name not in self.boxes, f"the name {name} is taken"
        self._did(f"rename {container}")
        box = self.boxes.pop(container)
        self.boxes[name] = Box(replace(box.found, container=name), box.restarts)
        self.watch()

    def remove(self, container: str) -> None:
        self._did(f"remove {container}")
        self.boxes.pop(container, None)
        self.watch()

    def joined(self, container: str, role: str) -> bool:
        return self.boxes[container].found.joined

    def restarts(self, container: str) -> int:
        return self.boxes[container].restarts

    def ended(self, container: str, restarts: int) -> str:
        return ""

    def running(self) -> Mapping[str, str]:
        """The image of each container that takes part, by name."""
        return {name: box.found.image for name, box in self.boxes.items() if box.found.joined}
