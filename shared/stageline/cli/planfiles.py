"""Reading the planner's problems and solutions from files. It needs the planner: commands import it when they run."""

from __future__ import annotations

import json
from typing import Any

import click

from stageline.errors import ConfigError
from stageline_coordinator.planner import Problem, Solution


def read_json(path: str) -> Any:
    """The JSON in a file, `-` for stdin. Raises `ConfigError` naming the file."""
    try:
        with click.open_file(path, encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{_name(path)} is not JSON: {error}") from None


def read_problem(path: str) -> Problem:
    """Raises `ConfigError` naming the file and the field that is wrong."""
    document = read_json(path)
    try:
        problem = Problem.from_json(document)
    except ConfigError as error:
        raise ConfigError(f"{_name(path)}: {error.message}") from None
    if not problem.models:
        raise ConfigError(f"{_name(path)}: models: must have at least one")
    return problem


def read_solution(path: str) -> Solution:
    """Raises `ConfigError` naming the file and the field that is wrong."""
    document = read_json(path)
    try:
        return Solution.from_json(document)
    except ConfigError as error:
        raise ConfigError(f"{_name(path)}: {error.message}") from None


def _name(path: str) -> str:
    return "stdin" if path == "-" else path
