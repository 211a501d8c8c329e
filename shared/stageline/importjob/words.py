"""What a command line and its import job say to each other: JSON, a line each."""

from __future__ import annotations

import msgspec

SOURCE, OUT, BLOBS, MANIFEST = "source", "out", "blobs", "manifest.json"
"""In the job's folder: what it was given; what it made: blobs, and the manifest that names them."""

MAX_LINE_BYTES = 1 << 20


class Request(msgspec.Struct, frozen=True):
    """Once the model's files are in `SOURCE`: as `stageline_stage.importer.import_model` takes it."""

    source: str
    name: str
    random_weights: int | None = None
    task: str | None = None


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The job has started and waits for files and request."""


class Step(msgspec.Struct, frozen=True, tag="step"):
    """What is being done, and the fraction done, in [0, 1]."""

    step: str
    part: float


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The model cannot be imported: a `StagelineError` by its code."""

    code: str
    message: str


class Printed(msgspec.Struct, frozen=True, tag="printed"):
    """A line that the model's code printed."""

    line: str


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """The last word. `status`: as `subprocess` tells it, 0 when all is in `OUT`."""

    status: int
    out_of_memory: bool = False


Said = Ready | Step | Failed | Printed | Ended


def encode(message: Said | Request) -> bytes:
    """The line, its end included."""
    return msgspec.json.encode(message) + b"\n"
