"""`stageline status`: what runs."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from stageline.cli.nodes import node_json
from stageline.cli.options import EXIT_NO_CLUSTER, Where, connect, json_option, location_options
from stageline.cli.output import emit_json, emit_table, note, size
from stageline.cli.plans import exposed
from stageline.cli.processes import live_gateways, process_rows
from stageline.coordinators import number_of
from stageline.embedded.adoption import adopt
from stageline.embedded.ended import cure, ended
from stageline.errors import NoClusterError
from stageline.locate import Location
from stageline.messages import ModelRow, NodeList
from stageline.plan import Plan

STATUS_TIMEOUT_S = 5.0


@click.command()
@location_options
@json_option
def status(where: Where, as_json: bool) -> int:
    """Show processes with pids and states, nodes, models and the plan's epoch.

    \b
    Example:
      stageline status --json
    """
    location = where()
    problem, listing, models, plan = "", NodeList(id=0, nodes=()), tuple[ModelRow, ...](), None
    try:
        with connect(location, STATUS_TIMEOUT_S) as admin:
            listing, models, plan = admin.nodes(), admin.models(), admin.plan()
    except NoClusterError as error:
        if location.state is None:
            raise
        problem = str(error)
    state = location.state and adopt(location.state, listing)
    processes = process_rows(state, listing)
    if as_json:
        emit_json(_status_json(location, processes, listing, models, plan, problem))
    else:
        _print_status(location, processes, models, plan, listing.objective)
        if listing.standby is not None:
            row = listing.standby
            lacks = f", lacks {row.behind} changes" if row.behind else ", has everything"
            click.echo(f"the other coordinator, {row.address}: {row.state}{lacks if row.state == 'alive' else ''}")
        if problem:
            note(f"stageline: {problem}")
        elif state is not None and (dead := [one.name for one in state.dead]):
            note(f"{ended(dead)} (see `stageline logs {dead[0]}`): {cure(state)}")
    return EXIT_NO_CLUSTER if problem else 0


def _status_json(
    location: Location,
    processes: list[dict[str, Any]],
    listing: NodeList,
    models: tuple[ModelRow, ...],
    plan: Plan | None,
    problem: str,
) -> dict[str, Any]:
    gateways = location.gateways or live_gateways(listing)
    return {
        "cluster": listing.cluster or (location.state.id if location.state else ""),
        "data_dir": location.state.data_dir if location.state else None,
        "coordinator": location.coordinator,
        "gateway": gateways[0] if gateways else "",
        "gateways": list(gateways),
        "epoch": list(plan.epoch) if plan else None,
        "objective": listing.objective if plan else None,
        "stages_without_standby": exposed(plan)[0] if plan else None,
        "processes": processes,
        "nodes": [node_json(node) for node in listing.nodes],
        "models": msgspec.to_builtins(models),
        "standby": msgspec.to_builtins(listing.standby),
        "problem": problem,
    }


def _print_status(
    location: Location,
    processes: list[dict[str, Any]],
    models: tuple[ModelRow, ...],
    plan: Plan | None,
    objective: str,
) -> None:
    columns = ("process", "role", "pid", "state", "address", "http")
    rows = [[p["name"], p["role"], p["pid"], p["state"], p["address"], p["http"]] for p in processes]
    emit_table("Processes", columns, rows, right=("pid",))
    if models:
        emit_table("Models", MODEL_COLUMNS, model_rows(models), right=("blocks", "weights"))
    if plan is not None:
        click.echo(f"plan {number_of(plan.term)}.{plan.version} for {objective}; coordinator {location.coordinator}")
        lacking, stages = exposed(plan)
        if lacking:
            note(unguarded(lacking, stages))


def unguarded(lacking: int, stages: int) -> str:
    """How many of the plan's stages have no standby, and where it says why."""
    have = "stage has" if stages == 1 else "stages have"
    return f"{lacking} of {stages} {have} no standby: `stageline plan show` says why"


MODEL_COLUMNS = ("model", "state", "blocks", "weights", "reason")


def model_rows(models: tuple[ModelRow, ...]) -> list[list[str]]:
    """Registered models as cells."""
    return [[m.name, m.status, str(m.blocks), size(m.weight_bytes), m.reason] for m in models]
