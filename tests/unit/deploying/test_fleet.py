"""Where images come from, which keys go where, and how a service's word that it takes part is read."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from boxes import NEW, OLD, site

from stageline.deploying.engine import takes_part
from stageline.deploying.fleet import DATABASE, KEPT, Fleet, archived
from stageline.deploying.planning import BEFORE, Image
from stageline.errors import ConfigError


class Memory:
    """An engine with images by name, and files of containers."""

    def __init__(self, **images: str) -> None:
        self.images = images
        self.files: dict[str, dict[str, bytes]] = {}
        self.done: list[str] = []

    def image_id(self, name: str) -> str:
        return self.images.get(name.partition(":")[0].replace("-", "_"), "")

    def create(self, site: str, wanted: Any) -> None:
        self.files.setdefault(wanted.service.container, {})

    def put(self, container: str, files: dict[str, bytes]) -> None:
        self.files[container] |= files

    def read(self, container: str, path: str) -> bytes:
        return self.files[container].get(path, b"")

    def rename(self, container: str, name: str) -> None:
        self.files[name] = self.files.pop(container)

    def remove(self, container: str) -> None:
        self.done.append(f"remove {container}")

    def start(self, container: str) -> None:
        self.done.append(f"start {container}")


def fleet(folder: Path, here: Memory | None, **boxes: Memory) -> Fleet:
    about = site(folder)
    return Fleet(about, {name: boxes.get(name, Memory()) for name in about.boxes}, here)  # type: ignore[arg-type]


def docker_save(path: Path, images: dict[str, str]) -> Path:
    listed = [{"Config": config, "RepoTags": [name], "Layers": []} for name, config in images.items()]
    data = json.dumps(listed).encode()
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("manifest.json")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return path


def test_images_come_from_archives_then_from_here_then_from_the_box(tmp_path: Path) -> None:
    here = Memory(stageline_control=OLD)
    boxes = {name: Memory(stageline_stage=NEW) for name in ("one", "two")}
    images = [one.image for one in fleet(tmp_path, here, **boxes).wanted()]
    assert images[0] == images[1] == Image("stageline-control:latest", OLD, copied=True)
    assert images[2] == images[3] == Image("stageline-stage:latest", NEW)
    with pytest.raises(ConfigError, match=r"image stageline-stage is in none of the archives, .* not on box two"):
        fleet(tmp_path, here, one=Memory(stageline_stage=NEW)).wanted()
    file = docker_save(tmp_path / "all.tar", {"stageline-stage:latest": f"blobs/sha256/{'e' * 64}"})
    made = fleet(tmp_path, here)
    made.site = site(tmp_path, (tmp_path / "site.yaml").read_text() + "archives: [all.tar]\n")
    assert made.wanted()[2].image == Image("stageline-stage:latest", "sha256:" + "e" * 64, str(file))


def test_an_archive_names_its_images(tmp_path: Path) -> None:
    old = docker_save(tmp_path / "old.tar", {"a:1": f"{'1' * 64}.json", "b:2": f"{'2' * 64}.json"})
    assert archived(old) == {"a:1": "sha256:" + "1" * 64, "b:2": "sha256:" + "2" * 64}
    (tmp_path / "text").write_text("nothing")
    for path, says in ((tmp_path / "text", "holds no image with a name"), (tmp_path / "none", "cannot read")):
        with pytest.raises(ConfigError, match=says):
            archived(path)
    with pytest.raises(ConfigError, match=r"make it by `docker save -o empty\.tar IMAGE`"):
        archived(docker_save(tmp_path / "empty.tar", {}))


def test_each_service_gets_its_own_keys_alone(tmp_path: Path) -> None:
    engine = Memory(stageline_control=OLD, stageline_stage=OLD)
    made = fleet(tmp_path, engine, hub=engine, one=engine, two=engine)
    made.make_keys()
    for one in made.wanted():
        made.create(one)
    names = {container: sorted(files) for container, files in engine.files.items()}
    own = ["keys/coordinator.pub", "keys/node.key"]
    assert names == {
        "shop-coordinator-hub": [
            "keys/admins/admin.pub",
            "keys/coordinator.key",
            *(f"keys/nodes/{name}.pub" for name in ("gateway-hub", "one", "two")),
        ],
        **dict.fromkeys(("shop-gateway-hub", "shop-stage-one", "shop-stage-two"), own),
    }
    keys = {files["keys/node.key"] for files in engine.files.values() if "keys/node.key" in files}
    assert len(keys) == 3


def test_keys_that_a_service_has_already_are_left_to_it(tmp_path: Path) -> None:
    engine = Memory(stageline_control=OLD, stageline_stage=OLD)
    made = fleet(tmp_path, engine, hub=engine, one=engine, two=engine)
    made.make_keys()
    coordinator, _, worker, _ = made.wanted()
    for one, own in ((coordinator, "keys/coordinator.key"), (worker, "keys/node.key")):
        engine.files[one.service.container] = {own: b"rotated"}
        made.create(one)
        assert engine.read(one.service.container, own) == b"rotated"
    assert list(engine.files[worker.service.container]) == ["keys/node.key"]
    assert engine.read(coordinator.service.container, "keys/nodes/one.pub") != b""
    rotated = tmp_path / "keys/admin/coordinator.pub"
    rotated.write_bytes(b"new")  # by `keys rotate --coordinator-key`
    made.make_keys()
    made.create(made.wanted()[3])
    assert engine.read("shop-stage-two", "keys/coordinator.pub") == b"new"


def database(version: int) -> bytes:
    return bytes(60) + version.to_bytes(4, "big") + bytes(36)


@pytest.mark.parametrize(("after", "kept"), [(5, False), (6, True)])
def test_a_database_that_an_update_changed_is_put_back(tmp_path: Path, after: int, kept: bool) -> None:
    engine, name = Memory(), "shop-coordinator-hub"
    made = fleet(tmp_path, None, hub=engine)
    engine.files[name] = {DATABASE: database(5)}
    made.set_aside("hub", name)
    assert engine.files[name + BEFORE][KEPT] == database(5)
    engine.files[name + BEFORE][DATABASE] = database(after) + b"more"  # the volume is the same
    made.bring_back("hub", name)
    assert engine.read(name, DATABASE) == (database(5) if kept else database(5) + b"more")
    assert (f"{DATABASE}-wal" in engine.files[name]) is kept
    assert engine.done == [f"remove {name}", f"start {name}"]


@pytest.mark.parametrize(
    ("role", "said", "takes"),
    [
        ("stage", '[200, {"ready": true}]', True),
        ("stage", '[503, {"ready": false, "joined": false}]', False),
        ("gateway", '[503, {"ready": false, "coordinator": "connected", "models": {}}]', True),
        ("gateway", '[503, {"ready": false, "coordinator": "away: the last plan goes on"}]', False),
        ("coordinator", '[503, {"coordinator": "connected"}]', False),
        ("stage", "FileNotFoundError: /run/stageline/ready.json", False),
        ("gateway", "[503, []]", False),
        ("gateway", "", False),
    ],
)
def test_who_says_that_it_takes_part(role: Any, said: str, takes: bool) -> None:
    assert takes_part(role, said.encode()) is takes
