"""The `stageline` command. `main` turns every error into one line and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from stageline.cli.backups import backups
from stageline.cli.bench import bench
from stageline.cli.cluster import down, up
from stageline.cli.completion import completion
from stageline.cli.demo import demo
from stageline.cli.deploying import deploy
from stageline.cli.emulate import emulate
from stageline.cli.infer import infer
from stageline.cli.inspect import status
from stageline.cli.keys import keys
from stageline.cli.logfiles import logs
from stageline.cli.models import models
from stageline.cli.nodes import nodes
from stageline.cli.options import EXIT_CODES, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, exit_code, one_line
from stageline.cli.planning import plan
from stageline.cli.tokens import tokens
from stageline.errors import StagelineError

HELP = f"""Serve neural networks on a cluster of small boxes.

\b
Example:
  stageline up --detach
  stageline models add stageline_stage.zoo:resnet50 --name resnet50
  stageline plan show
  stageline infer resnet50 --input pixel_values=image.npy
  stageline bench resnet50 --concurrency 16
  stageline down

{EXIT_CODES}"""


@click.group(help=HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="stageline")
def cli() -> None:
    """The root of all commands."""


for command in (
    up,
    down,
    status,
    backups,
    deploy,
    models,
    nodes,
    plan,
    infer,
    bench,
    keys,
    tokens,
    logs,
    demo,
    emulate,
    completion,
):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit; never a traceback for an error that we foresaw."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run a command line; returns the exit code."""
    try:
        result = cli.main(list(arguments), prog_name="stageline", standalone_mode=False)
    except click.exceptions.Abort:
        return _fail("interrupted", EXIT_INTERRUPTED)
    except click.UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # click 8.2 and newer; the message is the help text
            click.echo(error.format_message(), err=True)
            return EXIT_USAGE
        where = f" (see `{error.ctx.command_path} --help`)" if error.ctx else ""
        return _fail(f"{error.format_message()}{where}", EXIT_USAGE)
    except click.ClickException as error:
        return _fail(error.format_message(), EXIT_FAILED)
    except KeyboardInterrupt:
        return _fail("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        return EXIT_FAILED
    except StagelineError as error:
        return _fail(str(error), exit_code(error))
    except OSError as error:
        return _fail(f"{error.strerror or error}: {error.filename or 'check the system'}", EXIT_FAILED)
    return result if isinstance(result, int) else 0


def _fail(text: str, code: int) -> int:
    click.echo(f"stageline: {one_line(text)}", err=True)
    return code
