"""`stageline models`: import, list, show, set and remove models."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import click
import msgspec

from stageline.catalogue import Catalogue
from stageline.cli.catalogue import open_catalogue
from stageline.cli.completion import complete_model
from stageline.cli.containers import Containers, container_options
from stageline.cli.importing import importing
from stageline.cli.inspect import MODEL_COLUMNS, model_rows
from stageline.cli.options import Where, json_option, location_options
from stageline.cli.output import emit_json, emit_table, note, quantity, reporting, size
from stageline.cli.wishing import describe, set_model
from stageline.errors import ConfigError
from stageline.lifecycle import interruptible
from stageline.manifest import ModelManifest, Tolerance
from stageline.messages import ModelRow


@click.group()
def models() -> None:
    """Import models and look at them.

    \b
    Example:
      stageline models add hf:microsoft/resnet-50 --name resnet50
      stageline models list
    """


@models.command("add")
@click.argument("source")
@click.option("--name", help="Name to serve it under [default: made from SOURCE].")
@click.option("--random-weights", type=int, metavar="SEED", help="Build from the config alone, with weights by seed.")
@click.option("--task", help="Kind of Hugging Face model, when its config leaves it open.")
@click.option("--tolerance", type=float, metavar="X", help="Relative error that answers may have [default: 1e-4].")
@click.option("--replace", is_flag=True, help="Also replace a model whose inputs or outputs are others.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until the cluster serves it.")
@click.option("--timeout", type=float, default=300.0, show_default=True, help="Seconds to wait for that.")
@container_options
@location_options
@json_option
def add(
    source: str,
    name: str | None,
    random_weights: int | None,
    task: str | None,
    tolerance: float | None,
    replace: bool,
    wait: bool,
    timeout: float,
    containers: Containers,
    where: Where,
    as_json: bool,
) -> None:
    """Import a model and register it.

    SOURCE is a Hugging Face directory or hub id (hf:ORG/NAME), a torch.export archive (.pt2) or a Python factory
    (module:callable). Only what the coordinator lacks is uploaded. Where no cluster runs,
    the model is registered in the data directory and served by the next `stageline up`.

    A registered model of that name is replaced, without a gap where it is served, if inputs and outputs are the same
    (new weights, say); otherwise only with --replace, as clients would fail that know the old ones.

    --tolerance, above 0 and at most 1, is relative to the largest number of an answer: whatever computes it faster, or
    sends it smaller, has to stay within. Without it a model has its own: 1e-4, unless its importer says otherwise.

    Without torch here, or with any of the flags that say so, it is imported in a container of a stage image, without
    keys and, but for hf:ORG/NAME, without a network; what it gives is uploaded from here.

    \b
    Example:
      stageline models add hf:microsoft/resnet-50 --name resnet50
      stageline models add stageline_stage.zoo:resnet50 --name r50 --no-wait
      stageline models add theirs.pt2 --in-container
      stageline models add net:make --include net_layers.py --docker ssh://pi@10.0.0.1
    """
    if not 0 < timeout < float("inf"):
        raise ConfigError(f"--timeout must be positive, got {timeout:g}")
    _check_names(source, name)
    declared = None if tolerance is None else Tolerance.relative(tolerance)
    with interruptible(), open_catalogue(where) as catalogue, reporting("importing", quiet=as_json) as report:
        with importing(
            source, name=name, random_weights=random_weights, task=task, progress=report, containers=containers
        ) as (found, blobs):
            found = found if declared is None else dataclasses.replace(found, tolerance=declared)
            old = _registered(catalogue, found, replace)
            manifest = catalogue.put(found, blobs, report)
        row = catalogue.wait(found.name, manifest, timeout, report) if wait else catalogue.row(found.name)
    replaced = old if old != manifest else ""
    if as_json:
        emit_json({**_row_json(row), **found.describe(), "replaced": replaced or None})
        return
    why = f" ({row.reason})" if row.reason else ""
    click.echo(f"{found.name} is {row.status}{why}: {len(found.blocks)} blocks, {size(found.weight_bytes)} of weights")
    if replaced:
        click.echo(f"replaced the {found.name} that was registered before")


@models.command("list")
@location_options
@json_option
def list_models(where: Where, as_json: bool) -> None:
    """List the registered models.

    \b
    Example:
      stageline models list --json
    """
    with open_catalogue(where) as catalogue:
        rows = catalogue.models()
    if as_json:
        emit_json([_row_json(row) for row in rows])
        return
    emit_table("", MODEL_COLUMNS, model_rows(rows), right=("blocks", "weights"))


@models.command("show")
@click.argument("name", shell_complete=complete_model)
@location_options
@json_option
def show(name: str, where: Where, as_json: bool) -> None:
    """Show a model's inputs, outputs and blocks; sizes of -1 are dynamic.

    \b
    Example:
      stageline models show resnet50 --json
    """
    with open_catalogue(where) as catalogue:
        row = catalogue.row(name)
        manifest = catalogue.manifest(row)
    if as_json:
        about = {"manifest": row.manifest, "status": row.status, "reason": row.reason, "wishes": _wishes_json(row)}
        emit_json({**manifest.describe(), **about})
        return
    _print_model(manifest, row)


models.add_command(set_model)


@models.command("remove")
@click.argument("name", shell_complete=complete_model)
@location_options
@json_option
def remove(name: str, where: Where, as_json: bool) -> None:
    """Stop serving a model and forget it.

    \b
    Example:
      stageline models remove resnet50
    """
    with open_catalogue(where) as catalogue:
        catalogue.remove(name)
    if as_json:
        emit_json({"removed": name})
    else:
        click.echo(f"removed {name}")


def _check_names(source: str, name: str | None) -> None:
    """Raises `ConfigError` for what is empty."""
    if name is not None and not name.strip():
        raise ConfigError("--name is empty: give the name to serve the model under, or leave the flag out")
    if not source.strip():
        raise ConfigError("SOURCE is empty: give hf:ORG/NAME, a .pt2 file, or module:factory")
    if not source.removeprefix("hf:").strip():
        raise ConfigError("hf: names no model: give hf:ORG/NAME, or a Hugging Face directory")


def _registered(catalogue: Catalogue, new: ModelManifest, replace: bool) -> str:
    """The manifest of the registered model of that name, empty if there is none.

    Raises `ConfigError` if it has other inputs or outputs, unless it is to be replaced.
    """
    row = next((row for row in catalogue.models() if row.name == new.name), None)
    if row is None or replace:
        return row.manifest if row else ""
    old, found = catalogue.manifest(row).describe(), new.describe()
    for key in ("inputs", "outputs"):
        if old[key] != found[key]:
            raise ConfigError(
                f"{new.name} is registered with other {key}: {_values(old[key])}, not {_values(found[key])}: "
                "choose another --name, or --replace it"
            )
    return row.manifest


def _values(values: Sequence[dict[str, Any]]) -> str:
    return ", ".join(f"{one['name']} {one['dtype']} {' x '.join(map(str, one['shape']))}" for one in values)


def _row_json(row: ModelRow) -> dict[str, Any]:
    return {**msgspec.structs.asdict(row), "wishes": _wishes_json(row)}


def _wishes_json(row: ModelRow) -> dict[str, object]:
    return row.wishes.to_json() if row.wishes else {}


def _print_model(manifest: ModelManifest, row: ModelRow) -> None:
    described = manifest.describe()
    note(f"{row.name} is {row.status}{': ' + row.reason if row.reason else ''}; from {manifest.source or 'a program'}")
    if row.wishes and (said := describe(row.wishes)):
        note(f"its plans heed: {said}")
    tolerance = manifest.tolerance
    note(f"its answers may be off by {tolerance.rtol:g} of their largest number, and {tolerance.atol:g}")
    values = [
        (kind, value["name"], value["dtype"], " x ".join(map(str, value["shape"])))
        for kind, key in (("input", "inputs"), ("output", "outputs"))
        for value in described[key]
    ]
    emit_table("Signature", ("", "name", "dtype", "shape"), values)
    blocks = [
        (str(i), block["name"], size(block["weight_bytes"]), quantity(block["flops"]), size(block["cut_bytes"]))
        for i, block in enumerate(described["blocks"])
    ]
    columns = ("block", "name", "weights", "FLOPs", "crossing the cut after it")
    emit_table("Blocks", columns, blocks, right=("block", *columns[2:]))
