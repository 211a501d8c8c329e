"""The child of `stageline_stage.importjob` in which the model's code runs: FOLDER DESCRIPTOR, a request on stdin."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

from stageline.blobs import BlobStore
from stageline.errors import ModelImportError, StagelineError
from stageline.importjob.words import BLOBS, MANIFEST, OUT, SOURCE, Failed, Request, Said, Step, encode
from stageline.manifest import canonical_json
from stageline_stage.importer.assemble import Progress
from stageline_stage.importer.sources import import_model

MAX_MESSAGE = 1000


def main() -> None:
    """Import into the folder, or say why not. What the model's code prints goes to stderr."""
    folder, descriptor = Path(sys.argv[1]), int(sys.argv[2])
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)

    def tell(message: Said) -> None:
        os.write(descriptor, encode(message))

    try:
        _import(folder, request, lambda step, part: tell(Step(step, part)))
    except StagelineError as error:
        tell(Failed(error.code, f"{error.message}{_advice(error)}"[:MAX_MESSAGE]))
        sys.exit(1)
    except BaseException as error:  # the user's code may raise anything, also what ends a process
        tell(Failed(ModelImportError.code, f"{request.source} ended with {_told(error)}"[:MAX_MESSAGE]))
        sys.exit(1)


def _import(folder: Path, request: Request, progress: Progress) -> None:
    os.chdir(folder / SOURCE)
    manifest = import_model(
        request.source, name=request.name, store=BlobStore(folder / OUT / BLOBS), random_weights=request.random_weights,
        task=request.task, progress=progress,
    )  # fmt: skip
    (folder / OUT / MANIFEST).write_bytes(canonical_json(manifest.to_json()))


def _advice(error: StagelineError) -> str:
    missing = error.__cause__
    if not isinstance(missing, ModuleNotFoundError):
        return ""
    return f" ({missing.name} is not in the image: --include it if it is yours, or name an image with it by --image)"


def _told(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return str(error.code) if isinstance(error.code, str) else f"exit code {error.code or 0}"
    return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    main()
