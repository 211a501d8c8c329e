"""`stageline logs`: what the processes of an embedded cluster wrote."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import click

from stageline.cli.completion import complete_process
from stageline.cli.options import chosen_data_dir, data_dir_option
from stageline.cli.output import json_text
from stageline.embedded import running
from stageline.errors import ConfigError, NoClusterError

FOLLOW_S = 0.2
TAIL_BYTES = 64 << 10


@click.command()
@click.argument("name", required=False, shell_complete=complete_process)
@data_dir_option("The cluster of this directory [default: the newest that runs].")
@click.option("--follow", is_flag=True, help="Go on printing what is written, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line, with the process that wrote it.")
def logs(name: str | None, data_dir: Path | None, follow: bool, as_json: bool) -> None:
    """Print the ends of the logs of an embedded cluster; NAME is a process, such as gateway or stage-0.

    \b
    Example:
      stageline logs stage-0 --follow
      stageline logs --json | jq 'select(.level == "error")'
    """
    files = _log_files(data_dir)
    if name is not None:
        if name not in files:
            raise ConfigError(f"no process is called {name}: there are {', '.join(files)}")
        files = {name: files[name]}
    offsets = dict.fromkeys(files, -1)
    while True:
        for process, path in files.items():
            lines, offsets[process] = _read_from(path, offsets[process])
            for line in lines:
                click.echo(as_json_line(process, line) if as_json else f"{process}: {line}" if len(files) > 1 else line)
        if not follow:
            return
        time.sleep(FOLLOW_S)


def _log_files(data_dir: Path | None) -> dict[str, Path]:
    states = running() if data_dir is None else []
    directory = Path(states[0].data_dir) if states else chosen_data_dir(data_dir)
    files = {path.stem: path for path in sorted((directory / "logs").glob("*.log"))}
    if not files:
        raise NoClusterError(f"there are no logs in {directory / 'logs'}: name the cluster with --data-dir")
    return files


def _read_from(path: Path, offset: int) -> tuple[Iterator[str], int]:
    """Whole lines from `offset` (-1: the last of them; all, if the file got shorter), and where to go on."""
    with path.open("rb") as file:
        end = file.seek(0, 2)
        start = max(0, end - TAIL_BYTES) if offset < 0 else offset if offset <= end else 0
        file.seek(start)
        data = file.read(end - start)
    whole, _, rest = data.rpartition(b"\n")
    lines = whole.decode(errors="replace").splitlines()
    return iter(lines[1:] if offset < 0 and start > 0 else lines), end - len(rest)


def as_json_line(process: str, line: str) -> str:
    """What a service logged, with its process; anything else, such as a traceback, as `text`."""
    try:
        found = json.loads(line)
        if isinstance(found, dict):
            return json_text({"process": process, **found}, indent=None)
    except (ValueError, RecursionError):
        pass
    return json_text({"process": process, "text": line}, indent=None)
