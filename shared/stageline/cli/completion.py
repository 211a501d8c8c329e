"""`stageline completion`, and what the shell is offered in place of names. A completion never prints an error."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem, get_completion_class

from stageline.cli.options import Where, connect
from stageline.embedded.state import find, running
from stageline.errors import StagelineError

TIMEOUT_S = 1.0
"""Longer than that nobody waits for a completion."""

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_STAGELINE_COMPLETE"
"""Where click looks for what the shell wants to know."""


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print what makes SHELL complete commands, flags and, while a cluster runs, the names of models.

    \b
    Example:
      eval "$(stageline completion bash)"     # in ~/.bashrc, bash 4.4 or newer
      eval "$(stageline completion zsh)"      # in ~/.zshrc
      stageline completion fish > ~/.config/fish/completions/stageline.fish
    """
    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"this version of click does not know {shell}: upgrade it")
    root = click.get_current_context().find_root().command
    click.echo(found(root, {}, "stageline", VARIABLE).source())


def complete_model(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The models of the running cluster that the command means."""
    try:
        names = _models(_where(context))
    except (StagelineError, OSError):
        return []
    return [CompletionItem(name, help=state) for name, state in names.items() if name.startswith(incomplete)]


def complete_gone_node(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The workers that the command's cluster lists but that are not here any more."""
    return [item for item in complete_node(context, parameter, incomplete) if item.help == "gone"]


def complete_node(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The workers that the command's cluster lists."""
    try:
        with connect(_where(context)(), TIMEOUT_S) as admin:
            rows = admin.nodes().nodes
    except (StagelineError, OSError):
        return []
    return [CompletionItem(row.node, help=row.state) for row in rows if row.node.startswith(incomplete)]


def complete_process(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The processes of the embedded cluster that the command means."""
    directory = _where(context).data_dir
    state = find(directory.absolute()) if directory is not None else next(iter(running()), None)
    names = [process.name for process in state.processes] if state is not None else []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _where(context: click.Context) -> Where:
    given = context.params
    return Where(given.get("coordinator"), given.get("gateways") or (), given.get("data_dir"))


def _models(where: Where) -> dict[str, str]:
    """Name and state of each."""
    location = where()
    if location.coordinator:
        from stageline.admin import AdminClient

        with AdminClient(location.coordinator, timeout_s=TIMEOUT_S, keys=location.keys) as admin:
            return {row.name: row.status for row in admin.models()}
    from stageline.client import Client

    with Client(location.gateways, name="completion", retry=None, connect_timeout_s=TIMEOUT_S) as client:
        return {name: info.status for name, info in client.describe(timeout_s=TIMEOUT_S).items()}
