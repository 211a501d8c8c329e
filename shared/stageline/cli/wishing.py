"""`stageline models set` and `plan set`: what plans are to heed, and to be best in."""

from __future__ import annotations

import click

from stageline.admin import AdminClient
from stageline.blocks import Tolerance
from stageline.catalogue import ClusterCatalogue
from stageline.cli.completion import complete_model
from stageline.cli.options import Where, connect, json_option, location_options
from stageline.cli.output import emit_json, note
from stageline.errors import ConfigError, ModelNotFoundError
from stageline.nodewishes import is_selector, selects
from stageline.wishes import NONE, OBJECTIVES, Wishes, merge

UNSET = {
    "priority": "priority",
    "rate": "rate_per_s",
    "max-replicas": "max_replicas",
    "source": "source",
    "forbid": "forbidden",
    "require": "required",
}
"""Names of options, and of the fields that they set."""


@click.command("set")
@click.argument("name", shell_complete=complete_model)
@click.option("--priority", type=float, metavar="X", help="Larger counts more in plans [default: 1].")
@click.option("--rate", type=float, metavar="RATE", help="Requests per second to expect [default: unknown].")
@click.option("--max-replicas", type=int, metavar="N", help="Workers that may share a stage [default: the cluster's].")
@click.option("--source", metavar="NODE", help="The worker that hosts the first stage, alone.")
@click.option(
    "--forbid", multiple=True, metavar="NODE", help="A worker that hosts none of it, or a label of such; repeat it."
)
@click.option(
    "--require", multiple=True, metavar="NODE", help="A worker that must host a part, or a label of such; repeat it."
)
@click.option("--tolerance", type=float, metavar="X", help="Relative error that its answers may have.")
@click.option("--unset", multiple=True, type=click.Choice(list(UNSET)), help="Take one of these back; repeat it.")
@location_options
@json_option
def set_model(
    where: Where, name: str, priority: float | None, rate: float | None, max_replicas: int | None, source: str | None,
    forbid: tuple[str, ...], require: tuple[str, ...], tolerance: float | None, unset: tuple[str, ...],
    as_json: bool,
) -> None:  # fmt: skip
    """Say how much a model counts, how much it is asked, where it may run, and how exact it has to be.

    Kept by the cluster until it is changed or the model removed; the cluster plans anew at once. What is not given
    stays; --forbid and --require replace what they said before. A worker need not be there yet: until it is, plans do
    without it. A label, KEY=VALUE, means all workers that have it (`nodes label`), and KEY!=VALUE all that have not.

    --tolerance, above 0 and at most 1, is relative to the largest number of an answer. It is part of the model, which
    is loaded anew with it beside the old one; `models add` sets it again.

    \b
    Example:
      stageline models set resnet50 --priority 2 --rate 30 --forbid box-1 --forbid box-2
      stageline models set resnet50 --forbid gpu!=yes
      stageline models set resnet50 --unset forbid
    """
    said = Wishes(
        priority=priority, rate_per_s=rate, max_replicas=max_replicas, source=source, forbidden=forbid, required=require
    )
    gone = tuple(UNSET[one] for one in unset)
    if said == NONE and not gone and tolerance is None:
        raise ConfigError(f"nothing to set: give one of --{', --'.join(UNSET)}, --tolerance, or --unset")
    declared = None if tolerance is None else Tolerance.relative(tolerance)
    merge(NONE, said, gone)  # so that what cannot be is told without a cluster, too
    with connect(where()) as admin:
        if declared is not None:
            ClusterCatalogue(admin).declare(name, declared)
        if said != NONE or gone:
            admin.set_wishes(name, said, gone)
        wishes = _wishes(admin, name)
        absent = _absent(admin, said)
    if as_json:
        about = {"tolerance": declared.to_json()} if declared is not None else {}
        emit_json({"model": name, "wishes": wishes.to_json(), "absent": absent, **about})
        return
    exact = f", tolerance {declared.rtol:g}" if declared is not None else ""
    click.echo(f"{name}: {describe(wishes) or 'nothing is set'}{exact}")
    for node in absent:
        note(f"no worker {'has the label' if is_selector(node) else 'is called'} {node} yet")


@click.command("set")
@click.option("--objective", type=click.Choice(OBJECTIVES), required=True, help="What plans are to be best in.")
@location_options
@json_option
def set_plan(where: Where, objective: str, as_json: bool) -> None:
    """Choose what the cluster's plans are to be best in; it plans anew at once.

    throughput: requests per second. latency: seconds of a request; of several models the same as weighted. weighted:
    the mean of the models' seconds, weighed by their priorities, with what they wait for each other. The running plan
    is left only for a clearly better one.

    \b
    Example:
      stageline plan set --objective latency
    """
    with connect(where()) as admin:
        admin.set_objective(objective)
    if as_json:
        emit_json({"objective": objective})
    else:
        click.echo(f"plans are for {objective} from now on")


def describe(wishes: Wishes) -> str:
    """In the words of the options."""
    said = [f"{option} {_shown(value)}" for option, field in UNSET.items() if (value := getattr(wishes, field))]
    return ", ".join((["priority 0"] if wishes.priority == 0 else []) + said)


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _wishes(admin: AdminClient, name: str) -> Wishes:
    for row in admin.models():
        if row.name == name:
            return row.wishes or NONE
    raise ModelNotFoundError(f"{name} was removed meanwhile")


def _absent(admin: AdminClient, said: Wishes) -> list[str]:
    here = [node for node in admin.nodes().nodes if node.state != "gone"]
    return [one for one in (*said.nodes, *said.selectors) if not any(selects(one, n.node, n.labels) for n in here)]
