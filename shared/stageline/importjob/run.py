"""The conversation with an import job, and what is believed of what it says: nothing that is not checked here."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import msgspec

from stageline.blobs import CHUNK_BYTES, BlobStore
from stageline.catalogue import Report, parse_manifest
from stageline.errors import BY_CODE, BlobCorruptError, ConfigError, ModelError, ModelImportError
from stageline.importjob.archives import members, streamed
from stageline.importjob.engine import FOLDER, STDERR, STDOUT, Recipe
from stageline.importjob.files import Parcel
from stageline.importjob.words import (
    BLOBS,
    MANIFEST,
    MAX_LINE_BYTES,
    OUT,
    SOURCE,
    Ended,
    Failed,
    Printed,
    Ready,
    Request,
    Said,
    Step,
    encode,
)
from stageline.manifest import ModelManifest

MAX_MANIFEST_BYTES = 64 << 20
MAX_MESSAGE = 1000
HUB_VARIABLES = (
    "HF_TOKEN", "HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
)  # fmt: skip
"""What fetching from a hub may need of this environment. Such a job runs no code of the model's."""

Told = Callable[[str], None]
"""Called with each line that the model's code printed."""

_decode = msgspec.json.Decoder(Said).decode


class Box(Protocol):
    """A container as a job needs it: `stageline.importjob.engine.Container`."""

    def put(self, pieces: Iterator[bytes]) -> None: ...
    def fetch(self, path: str) -> Iterator[bytes]: ...
    def say(self, line: bytes) -> None: ...
    def hears(self) -> Iterator[tuple[int, bytes]]: ...


class Boxes(Protocol):
    """What makes one: `stageline.importjob.engine.Engine`."""

    @property
    def architecture(self) -> str: ...
    def image_architecture(self, name: str) -> str: ...
    def container(self, recipe: Recipe) -> AbstractContextManager[Box]: ...


@dataclass(frozen=True)
class Order:
    """What to import, and in what."""

    parcel: Parcel
    request: Request
    image: str
    memory_bytes: int


def import_in_container(engine: Boxes, order: Order, store: BlobStore, report: Report, told: Told) -> ModelManifest:
    """Import, and have the model's blobs in `store`.

    Raises what the importer in the job raises, `ModelImportError` when it ended without a word or made what is not a
    model, `ConfigError` for an image that cannot do it, `ClusterError` when Docker fails.
    """
    theirs = engine.image_architecture(order.image)
    report("starting a container", 0.0)
    recipe = Recipe(order.image, order.memory_bytes, order.parcel.network, _environment(order.parcel.network))
    with engine.container(recipe) as box:
        heard = _Heard(box, told)
        if not isinstance(heard.next(), Ready):
            raise _unable(heard.last, order.image, theirs, engine.architecture)
        box.put(streamed(SOURCE, order.parcel.files, lambda sent, total: report("sending the model", sent / total)))
        box.say(encode(order.request))
        _until_ended(heard, order.memory_bytes, report)
        return _fetched(box, order.request.name, store, report)


def _environment(network: bool) -> dict[str, str]:
    scratch = f"{FOLDER}/tmp"
    found = {"TMPDIR": scratch, "HOME": scratch, "XDG_CACHE_HOME": scratch, "HF_HUB_DISABLE_TELEMETRY": "1"}
    return found | {name: os.environ[name] for name in HUB_VARIABLES if network and name in os.environ}


class _Heard:
    """What a job says, message by message, but for what is only printed; `last` is the last line of that."""

    def __init__(self, box: Box, told: Told) -> None:
        self._pieces, self._told = box.hears(), told
        self._waiting: list[Said] = []
        self._rest: dict[int, bytes] = {}
        self.last = ""

    def next(self) -> Said | None:
        """None when nothing comes any more. Raises `ModelImportError` for what is no message."""
        while True:
            while self._waiting:
                if not isinstance(found := self._waiting.pop(0), Printed):
                    return found
                self._printed(found.line)
            if not self._listen():
                return None

    def _listen(self) -> bool:
        """Whether there was anything."""
        kind, data = next(self._pieces, (0, b""))
        if not data:
            self._printed(self._rest.pop(STDERR, b"").decode(errors="replace"))
            return False
        *lines, rest = (self._rest.get(kind, b"") + data).split(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            raise ModelImportError("the import wrote an endless line: is the image a stage image?")
        self._rest[kind] = rest
        for line in lines:
            self._message(line) if kind == STDOUT else self._printed(line.decode(errors="replace"))
        return True

    def _message(self, line: bytes) -> None:
        try:
            self._waiting += [_decode(line)] if line.strip() else []
        except msgspec.DecodeError:
            raise ModelImportError(
                "the import said what this Stageline does not understand: name an image of this version by --image"
            ) from None

    def _printed(self, line: str) -> None:
        if line.strip():
            self.last = line
            self._told(line)


def _unable(last: str, image: str, theirs: str, ours: str) -> ConfigError:
    """Why a container never became a job."""
    if "exec format error" in last.lower() or (theirs and ours and theirs != ours):
        return ConfigError(
            f"the image {image} is for {theirs}, and Docker's machine is {ours}: name one for it by --image"
        )
    said = f" ({last})" if last else ""
    return ConfigError(
        f"the image {image} cannot import models{said}: build a stage image of this version (`make images`), or name "
        "another by --image"
    )


def _until_ended(heard: _Heard, memory_bytes: int, report: Report) -> None:
    failed: Failed | None = None
    while not isinstance(said := heard.next(), Ended):
        if said is None:
            raise ModelImportError(f"the import's container ended: {heard.last or 'it said nothing'}")
        if isinstance(said, Step):
            report(said.step[:80], min(1.0, max(0.0, said.part)))
        elif isinstance(said, Failed):
            failed = said
    if said.out_of_memory:
        raise ModelImportError(
            f"the import ran out of its {memory_bytes / (1 << 30):.1f} GiB of memory: allow more by --memory"
        )
    if failed is not None:
        kind = BY_CODE.get(failed.code, ModelImportError)
        allowed = issubclass(kind, ModelError | ConfigError)
        raise (kind if allowed else ModelImportError)(failed.message[:MAX_MESSAGE])
    if said.status:
        how = f"with exit code {said.status}" if said.status > 0 else f"by signal {-said.status}"
        raise ModelImportError(f"the import ended {how}: {heard.last or 'it said nothing'}"[:MAX_MESSAGE])


def _fetched(box: Box, name: str, store: BlobStore, report: Report) -> ModelManifest:
    try:
        manifest = _manifest(box)
        if manifest.name != name:  # it would replace another model
            raise ModelImportError(f"the import of {name} made a model of another name, {manifest.name}")
        _take(box, manifest.blobs(), store, report)
    except tarfile.TarError as error:
        raise ModelImportError(f"what the import made cannot be read ({error}): try again") from None
    return manifest


def _manifest(box: Box) -> ModelManifest:
    for member, file in members(box.fetch(f"{OUT}/{MANIFEST}")):
        if member.isreg() and member.size <= MAX_MANIFEST_BYTES:
            try:
                return parse_manifest(file.read())
            except RecursionError:
                break
    raise ModelImportError("the import left no manifest")


def _take(box: Box, sizes: Mapping[str, int], store: BlobStore, report: Report) -> None:
    """Those blobs, each checked against its address."""
    total, done = sum(sizes.values()), 0
    for member, file in members(box.fetch(f"{OUT}/{BLOBS}")):
        sha = member.name.rpartition("/")[2]
        if not member.isreg() or member.size != sizes.get(sha):
            raise ModelImportError("the import left a file that its manifest does not name")
        if store.has(sha):
            continue
        while piece := file.read(CHUNK_BYTES):
            store.append(sha, store.partial_size(sha), piece, total=member.size)
            done += len(piece)
            report("fetching blocks", done / total)
        try:
            store.commit(sha)
        except BlobCorruptError:
            raise ModelImportError("the import left a blob that is not what its name says") from None
    missing = [sha for sha in sizes if not store.has(sha)]
    if missing:
        raise ModelImportError(f"the import did not make {len(missing)} of the blobs that its manifest names")
