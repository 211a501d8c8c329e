"""`stageline infer`: one request from files, its answer to a file or the terminal."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stageline.cli.completion import complete_model
from stageline.cli.options import Where, client_options, connect, json_option, location_options
from stageline.cli.output import emit_json, emit_table
from stageline.cli.processes import live_gateways
from stageline.embedded.ended import explaining
from stageline.errors import ConfigError, ConnectionLostError, DeadlineError, NoClusterError, StoreError
from stageline.locate import Location

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from stageline.client import InferResult

    Array = npt.NDArray[np.generic]

TOP = 5
STDIN = "-"
SINGLE, ARCHIVE = ".npy", ".npz"
PRIORITY = click.IntRange(-(1 << 31), (1 << 31) - 1)


@click.command()
@click.argument("model", shell_complete=complete_model)
@click.option(
    "--input",
    "inputs",
    multiple=True,
    required=True,
    metavar="NAME=FILE.npy",
    help="An input; repeatable. NAME=-: from stdin.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write all outputs to this .npz file, or the only one to a .npy file.",
)
@click.option("--priority", type=PRIORITY, default=0, show_default=True, help="Lower numbers are served first.")
@click.option("--deadline-ms", type=float, help="Give up after so many milliseconds [default: the gateway's].")
@location_options
@client_options
@json_option
def infer(
    model: str,
    inputs: Sequence[str],
    output: Path | None,
    priority: int,
    deadline_ms: float | None,
    where: Where,
    secured: dict[str, Any],
    as_json: bool,
) -> None:
    """Run MODEL on arrays from .npy files; dimension 0 of each is the batch.

    \b
    Example:
      stageline infer resnet50 --input pixel_values=image.npy --output logits.npz
      stageline infer resnet50 --input pixel_values=image.npy --deadline-ms 500 --priority -1
      stageline infer digits --input pixel_values=- < examples/digits/7.npy
    """
    check_deadline(deadline_ms)
    arrays = read_inputs(inputs)
    from stageline.client import Client
    from stageline.client.sync import CONNECT_S

    asked, location = time.monotonic(), where()
    addresses, patience = gateway_addresses(location), CONNECT_S
    if deadline_ms is not None:  # of several gateways each gets its part of the time
        patience = min(patience, deadline_ms / 1000 / len(addresses))
    with (
        explaining(location.state, "gateway"),
        _naming(deadline_ms, asked),
        Client(addresses, name="cli", connect_timeout_s=patience, **secured) as client,
    ):
        if output is not None:
            check_output(output, [spec.name for spec in client.describe(model)[model].signature.outputs])
        begun = time.monotonic()
        left_s = None if deadline_ms is None else max(0.001, asked + deadline_ms / 1000 - begun)
        result = client.infer(model, arrays, priority=priority, deadline_s=left_s)
        elapsed_ms = 1000 * (time.monotonic() - begun)
    if output is not None:
        write_outputs(output, result.outputs)
    if as_json:
        emit_json(_as_json(model, result, elapsed_ms, output))
    else:
        _print(result, elapsed_ms, output)


@contextmanager
def _naming(deadline_ms: float | None, asked: float) -> Iterator[None]:
    """Whose patience with a gateway ended because of the deadline is told so."""
    try:
        yield
    except ConnectionLostError as error:
        if deadline_ms is None or time.monotonic() < asked + deadline_ms / 1000:
            raise
        raise DeadlineError(f"the deadline of {deadline_ms:g} ms passed: {error.message}") from None


def check_deadline(deadline_ms: float | None) -> None:
    """Raises `ConfigError` for a `--deadline-ms` that is none."""
    if deadline_ms is not None and not 0 < deadline_ms < float("inf"):
        raise ConfigError(f"--deadline-ms must be positive, got {deadline_ms:g}")


def gateway_addresses(location: Location) -> tuple[str, ...]:
    """The gateways' client addresses: as named, or the live ones that the coordinator knows."""
    if location.gateways:
        return location.gateways
    with connect(location) as admin:
        known = live_gateways(admin.nodes())
    if known:
        return known
    raise NoClusterError("the coordinator knows no live gateway: start one with `stageline-gateway`")


def read_inputs(texts: Sequence[str]) -> dict[str, Array]:
    """Every NAME=FILE.npy. Raises `ConfigError`, also for a name that comes twice."""
    arrays: dict[str, Array] = {}
    for text in texts:
        name, array = read_input(text)
        if name in arrays:
            raise ConfigError(f"--input {name} is given twice: one file per input")
        arrays[name] = array
    return arrays


def read_input(text: str) -> tuple[str, Array]:
    """NAME=FILE.npy, or NAME=- for stdin, to name and array; never unpickles. Raises `ConfigError`."""
    import numpy as np

    name, equals, file = text.partition("=")
    if not name or not equals or not file:
        raise ConfigError(f"--input wants NAME=FILE.npy, got {text!r}")
    try:
        array = np.load(io.BytesIO(sys.stdin.buffer.read()) if file == STDIN else file, allow_pickle=False)
    except OSError as error:
        raise ConfigError(f"cannot read {file} for input {name}: {error.strerror or error}") from None
    except (ValueError, EOFError):
        raise ConfigError(f"{file} is no .npy file of plain numbers: write it with numpy.save") from None
    if not isinstance(array, np.ndarray):
        array.close()
        raise ConfigError(f"{file} holds several arrays: give one .npy file per input")
    return name, array


def check_output(path: Path, outputs: Sequence[str]) -> None:
    """Raises `ConfigError` where the file cannot be, or cannot hold what the model gives, before that is computed."""
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"{path.parent} is no directory: choose another --output")
    if path.suffix not in (SINGLE, ARCHIVE):
        raise ConfigError(f"--output {path.name} must end in {SINGLE} or {ARCHIVE}, which say what is written")
    if path.suffix == SINGLE and len(outputs) != 1:
        raise ConfigError(
            f"--output {path.name} holds one array, the model gives {', '.join(outputs)}: name a .npz file"
        )


def write_outputs(path: Path, outputs: dict[str, Any]) -> None:
    """One array per output, by name; alone and without its name in a .npy file. Raises `StoreError`."""
    import numpy as np

    check_output(path, list(outputs))  # again: the model may have been replaced meanwhile
    try:
        with path.open("wb") as file:
            if path.suffix == SINGLE:
                np.save(file, *outputs.values())
            else:
                np.savez(file, **outputs)
    except OSError as error:
        raise StoreError(f"cannot write {path} ({error.strerror}): choose another --output") from None


def top_values(array: Array, count: int = TOP) -> list[tuple[int, float]]:
    """The largest values of the first item's last axis, with their positions."""
    import numpy as np

    if array.dtype.kind not in "fiu" or array.size == 0 or array.ndim == 0:
        return []
    row = array[0] if array.ndim > 1 else array
    flat = np.asarray(row, dtype=np.float64).reshape(-1, row.shape[-1] if row.ndim else 1)[-1]
    best = np.argsort(-flat, kind="stable")[:count]
    return [(int(i), float(flat[i])) for i in best]


def _as_json(model: str, result: InferResult, elapsed_ms: float, output: Path | None) -> dict[str, Any]:
    return {
        "model": model,
        "outputs": [
            {
                "name": name,
                "dtype": array.dtype.name,
                "shape": list(array.shape),
                "top": [{"index": i, "value": value} for i, value in top_values(array)],
            }
            for name, array in result.outputs.items()
        ],
        "batch": result.batch,
        "attempts": result.attempts,
        "elapsed_ms": round(elapsed_ms, 3),
        "output": str(output) if output else None,
    }


def _print(result: InferResult, elapsed_ms: float, output: Path | None) -> None:
    rows = [
        (
            name,
            array.dtype.name,
            " x ".join(map(str, array.shape)),
            "  ".join(f"{i}: {v:.4g}" for i, v in top_values(array)),
        )
        for name, array in result.outputs.items()
    ]
    emit_table("", ("output", "dtype", "shape", "largest (first item)"), rows)
    where = f"; written to {output}" if output else ""
    click.echo(f"answered in {elapsed_ms:.1f} ms{where}")
