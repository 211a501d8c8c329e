"""`stageline deploy`: the boxes of a site, administered through their Docker engines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from stageline.cli.logfiles import as_json_line
from stageline.cli.options import json_option
from stageline.cli.output import emit_json, emit_table, note
from stageline.deploying.applying import Applier
from stageline.deploying.fleet import Fleet
from stageline.deploying.planning import Change, Found, Seen, Wanted, plan, removal, short
from stageline.deploying.site import Site, read_site
from stageline.errors import ConfigError

FILE = click.Path(path_type=Path, dir_okay=False, exists=True)
COLUMNS = ("box", "service", "state", "joined", "image", "")
APPLY = "apply"


class Deploy(click.Group):
    """`stageline deploy SITE.yaml` is `stageline deploy apply SITE.yaml`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """What names no command belongs to `apply`."""
        if args and not set(args) & {*self.commands, *self.get_help_option_names(ctx)}:
            args.insert(0, APPLY)
        return super().parse_args(ctx, args)


@click.group(cls=Deploy)
def deploy() -> None:
    """Make boxes run what SITE.yaml says, through their Docker engines.

    `stageline deploy SITE.yaml` shows what changes and does it, one service at a time; with --plan it only shows. A
    service that does not come up is replaced by the one from before. Run again it goes on where it was cut short.

    \b
    Example:
      stageline deploy site.yaml --plan
      stageline deploy site.yaml
      stageline deploy status site.yaml
      stageline deploy logs site.yaml box-1
      stageline deploy down site.yaml
    """


@deploy.command(APPLY)
@click.argument("site", type=FILE)
@click.option("--plan", "only_plan", is_flag=True, help="Show what would change, and change nothing.")
@json_option
def apply(site: Path, only_plan: bool, as_json: bool) -> None:
    """Bring the boxes to what SITE.yaml says.

    \b
    Example:
      stageline deploy apply site.yaml
    """
    with _reached(site) as (_, fleet):
        wanted = fleet.wanted()
        changes = plan(wanted, fleet.seen(wanted))
        if as_json:
            emit_json([_described(one) for one in changes])
        elif not changes:
            note("nothing to change")
        if only_plan:
            for change in () if as_json else changes:
                click.echo(_line(change))
            return
        if changes:
            fleet.make_keys()
        Applier(fleet).apply(changes, lambda change: None if as_json else click.echo(_line(change)))
        if changes and not as_json:
            note(f"{len(wanted)} services run as {site} says")


@deploy.command("status")
@click.argument("site", type=FILE)
@json_option
def status(site: Path, as_json: bool) -> None:
    """What runs, and whether it is what SITE.yaml says.

    \b
    Example:
      stageline deploy status site.yaml
    """
    with _reached(site) as (_, fleet):
        wanted = fleet.wanted()
        rows = list(_rows(wanted, fleet.seen(wanted)))
    if as_json:
        emit_json([dict(zip((*COLUMNS[:-1], "note"), row, strict=True)) for row in rows])
        return
    emit_table("", COLUMNS, rows)


@deploy.command("logs")
@click.argument("site", type=FILE)
@click.argument("which", required=False)
@click.option("--tail", type=click.IntRange(1, 100_000), default=50, show_default=True, help="Lines of each service.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line, with the service that wrote it.")
def logs(site: Path, which: str | None, tail: int, as_json: bool) -> None:
    """The last lines of the services of a box, or of one service (BOX-ROLE), or of all.

    \b
    Example:
      stageline deploy logs site.yaml box-1 --tail 200
    """
    with _reached(site) as (about, fleet):
        found = [one for engine in fleet.engines for one in engine.containers(about.name)]
        names = {one.container: f"{one.box}-{one.role}" for one in found}
        chosen = [one for one in found if which in (None, one.box, one.container, names[one.container])]
        if not chosen:
            raise ConfigError(
                f"nothing is called {which or about.name}: there are {', '.join(names.values()) or 'none'}"
            )
        for one in chosen:
            for line in fleet[one.box].log(one.container, tail).splitlines():
                name = names[one.container]
                click.echo(as_json_line(name, line) if as_json else f"{name}: {line}" if len(chosen) > 1 else line)


@deploy.command("down")
@click.argument("site", type=FILE)
@click.option("--volumes", is_flag=True, help="Also remove models, keys and caches on the boxes.")
@json_option
def down(site: Path, volumes: bool, as_json: bool) -> None:
    """Stop and remove all services of a site: workers first, the coordinator last.

    \b
    Example:
      stageline deploy down site.yaml
    """
    with _reached(site) as (about, fleet):
        changes = removal(fleet.seen(()).containers)
        Applier(fleet).apply(changes, lambda change: None if as_json else click.echo(_line(change)))
        gone = [name for engine in fleet.engines for name in engine.remove_volumes(about.name)] if volumes else []
    if as_json:
        emit_json({"removed": [_described(one)["why"] for one in changes], "volumes": gone})
    else:
        note(f"{len(changes)} containers and {len(gone)} volumes removed")


@contextmanager
def _reached(site: Path) -> Iterator[tuple[Site, Fleet]]:
    about = read_site(site)
    with Fleet.reached(about) as fleet:
        yield about, fleet


def _line(change: Change) -> str:
    return f"{change.box}: {change.what}: {change.why}"


def _described(change: Change) -> dict[str, Any]:
    steps = [type(step).__name__ for step in change.steps]
    return {"box": change.box, "what": change.what, "why": change.why, "steps": steps}


def _rows(wanted: tuple[Wanted, ...], seen: Seen) -> Iterator[tuple[str, str, str, str, str, str]]:
    there = {one.container: one for one in seen.containers}
    for one in wanted:
        found = there.pop(one.service.container, None)
        if found is None:
            yield one.service.box, one.service.role, "missing", "no", short(one.image.id), "`stageline deploy` makes it"
        else:
            yield _row(found, "" if found.digest == one.digest else "to be updated")
    for found in there.values():
        yield _row(found, "left over: `stageline deploy` goes on" if found.aside else "not wanted")


def _row(one: Found, said: str) -> tuple[str, str, str, str, str, str]:
    return one.box, one.role, one.state, "yes" if one.joined else "no", short(one.image), said
