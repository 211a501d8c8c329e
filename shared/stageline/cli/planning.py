"""`stageline plan`: the placement of the running cluster, and the planner on problem files without one."""

from __future__ import annotations

import click

from stageline.cli.plansolve import check_plan, compare_plans, solve_plan
from stageline.cli.planviews import explain_plan, show_plan, write_problem
from stageline.cli.wishing import set_plan


@click.group(invoke_without_command=True)
@click.pass_context
def plan(context: click.Context) -> None:
    """Look at the placement, and plan without a cluster.

    Without a command: the running cluster's plan, as `stageline plan show`.

    \b
    Example:
      stageline plan show
      stageline plan explain
      stageline plan problem > problem.json
      stageline plan solve problem.json
    """
    if context.invoked_subcommand is None:
        context.invoke(show_plan)


for command in (show_plan, explain_plan, set_plan, write_problem, solve_plan, compare_plans, check_plan):
    plan.add_command(command)
