"""`stageline plan`: the placement of the running cluster, and the planner on problem files without one."""

from __future__ import annotations

import click

from stageline.cli.inspect import show_plan


@click.group(invoke_without_command=True)
@click.pass_context
def plan(context: click.Context) -> None:
    """Look at the placement, and plan without a cluster.

    Without a command: the running cluster's plan, as `stageline plan show`.
    """
    if context.invoked_subcommand is None:
        context.invoke(show_plan)


plan.add_command(show_plan)
