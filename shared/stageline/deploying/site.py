"""SITE.yaml: the boxes, what runs on each, and with which settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import msgspec

from stageline.addresses import is_loopback
from stageline.config import SECTIONS, CoordinatorConfig, load
from stageline.errors import ConfigError
from stageline.yaml_file import read_yaml

Role = Literal["coordinator", "gateway", "stage"]
ROLES: tuple[Role, ...] = ("coordinator", "gateway", "stage")
IMAGES: Mapping[Role, str] = {"coordinator": "control", "gateway": "control", "stage": "stage"}
OURS = frozenset(
    {"name", "coordinator", "keys_dir", "join_token", "join_token_file", "data_dir", "cache_dir", "journal"}
    | {"ready_file", "log_format", "standby_of", "control_address"}
)
"""Settings that are made here."""

FILES = ("http_token_file", "tokens_file", "tls_cert", "tls_key", "tls_client_ca")
"""Settings that name files: those are brought along."""

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
DATA = "/var/lib/stageline"
KEYS = "keys"
"""Below `DATA`."""


class Images(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Names of images; empty: as the site has it."""

    control: str = ""
    stage: str = ""


class Box(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A Docker engine, and what runs there (nothing: what we once started is removed).

    `address`: by which the other boxes reach it; `docker`: by which we do, empty for this machine's.
    """

    address: str
    runs: tuple[Role, ...]
    docker: str = ""
    tls: str = ""
    images: Images = Images()
    coordinator: dict[str, str] = {}
    gateway: dict[str, str] = {}
    stage: dict[str, str] = {}


class SiteFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The file as it is written. `archives`: files of `docker save`; `wait_s`: how long a service may take to start."""

    boxes: dict[str, Box]
    site: str = ""
    keys: str = "keys"
    images: Images = Images("stageline-control", "stageline-stage")
    archives: tuple[str, ...] = ()
    wait_s: float = 120.0
    coordinator: dict[str, str] = {}
    gateway: dict[str, str] = {}
    stage: dict[str, str] = {}


@dataclass(frozen=True)
class Service:
    """One container to be; its settings are all in its environment. `name`: in the cluster; `files`: below `DATA`."""

    box: str
    role: Role
    name: str
    container: str
    image: str
    environment: Mapping[str, str]
    files: Mapping[str, bytes]
    grace_s: int


@dataclass(frozen=True)
class Site:
    """A site, its services in the order in which they are updated. Paths are absolute."""

    name: str
    boxes: Mapping[str, Box]
    services: tuple[Service, ...]
    keys: Path
    archives: tuple[Path, ...]
    wait_s: float

    def tls(self, box: str) -> Path | None:
        """The directory with the certificates for a box's engine."""
        found = self.boxes[box].tls
        return Path(found) if found else None


def read_site(path: Path) -> Site:
    """Raises `ConfigError` that names the file and what is wrong in it."""
    try:
        file = msgspec.convert(read_yaml(path), SiteFile, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {error}") from None
    try:
        return _site(file, file.site or path.stem, path.absolute().parent)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}") from None


def _site(file: SiteFile, name: str, folder: Path) -> Site:
    for kind, text in (("site", name), *(("box", box) for box in file.boxes)):
        if not NAME.fullmatch(text):
            raise ConfigError(f"{text[:60]!r} cannot be the name of a {kind}: want small letters, digits and -")
    _check_boxes(file)
    coordinator = next(box for box, about in file.boxes.items() if "coordinator" in about.runs)
    port = _settings(file, coordinator, "coordinator").get("STAGELINE_PORT", str(CoordinatorConfig().port))
    control = f"tcp://{file.boxes[coordinator].address}:{port}"
    services = (
        _service(file, name, box, role, control, folder)
        for role in ROLES
        for box, about in file.boxes.items()
        if role in about.runs
    )
    archives = tuple(folder / archive for archive in file.archives)
    if not 0 < file.wait_s < float("inf"):
        raise ConfigError(f"wait_s must be a number of seconds above 0, got {file.wait_s}")
    boxes = {
        box: msgspec.structs.replace(about, tls=str(folder / about.tls) if about.tls else "")
        for box, about in file.boxes.items()
    }
    return Site(name, boxes, tuple(services), folder / file.keys, archives, file.wait_s)


def _check_boxes(file: SiteFile) -> None:
    homes = [name for name, box in file.boxes.items() if "coordinator" in box.runs]
    if len(homes) != 1:
        raise ConfigError(f"one box runs the coordinator, not {len(homes)}: name it in the `runs` of one box")
    for name, box in file.boxes.items():
        if len(set(box.runs)) != len(box.runs):
            raise ConfigError(f"box {name} runs something twice: of {', '.join(ROLES)} each runs once")
        if not re.fullmatch(r"[\w.:-]+", box.address):
            raise ConfigError(f"box {name}: {box.address!r} is no address by which others reach it")
    hidden = [name for name, box in file.boxes.items() if is_loopback(box.address)]
    if hidden and len(hidden) < len(file.boxes):
        raise ConfigError(f"box {hidden[0]}: the others cannot reach {file.boxes[hidden[0]].address}")


def _settings(file: SiteFile, box: str, role: Role) -> dict[str, str]:
    """What the file sets, as environment."""
    found: dict[str, str] = {**getattr(file, role), **getattr(file.boxes[box], role)}
    known = {one.name for one in fields(SECTIONS[role])}
    for setting in found:
        if setting in OURS or setting not in known:
            why = "is not for this file to set" if setting in OURS else f"is no setting of a {role}"
            raise ConfigError(f"{role}: {setting[:60]} {why}")
    return {f"STAGELINE_{setting.upper()}": value for setting, value in found.items()}


def _service(file: SiteFile, site: str, box: str, role: Role, control: str, folder: Path) -> Service:
    about = file.boxes[box]
    name = {"coordinator": "coordinator", "gateway": f"gateway-{box}", "stage": box}[role]
    environment = {"STAGELINE_HOST": about.address, "STAGELINE_KEYS_DIR": f"{DATA}/{KEYS}"}
    if role != "coordinator":
        environment |= {"STAGELINE_NAME": name, "STAGELINE_COORDINATOR": control}
    if role == "gateway":
        environment["STAGELINE_JOURNAL"] = f"{DATA}/journal"
    settings, files = _settings(file, box, role), dict[str, bytes]()
    for variable in (f"STAGELINE_{name.upper()}" for name in FILES):
        if variable in settings:
            files[f"files/{variable.lower()}"] = _content(folder / settings[variable])
            settings[variable] = f"{DATA}/files/{variable.lower()}"
    environment |= settings
    config = load(SECTIONS[role], flags={}, environ=environment)  # what it would end with, before anything is changed
    image = getattr(about.images, IMAGES[role]) or getattr(file.images, IMAGES[role])
    if not image:
        raise ConfigError(f"images.{IMAGES[role]} is empty")
    grace_s = int(getattr(config, "drain_s", 0.0)) + 5
    return Service(box, role, name, f"{site}-{role}-{box}", image, environment, files, grace_s)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
