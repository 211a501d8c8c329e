"""Logs: JSON with bound context, levels, exceptions as text."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
import structlog

from stageline import logs


@pytest.fixture(autouse=True)
def restore() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_lines_carry_the_bound_context() -> None:
    stream = io.StringIO()
    log = logs.configure(service="gateway", stream=stream, name="g1")
    log.bind(model="m").info("dispatched", batch=3)
    (line,) = lines(stream)
    assert line.pop("timestamp")
    assert line == {
        "service": "gateway",
        "name": "g1",
        "model": "m",
        "event": "dispatched",
        "batch": 3,
        "level": "info",
    }


def test_levels_filter() -> None:
    stream = io.StringIO()
    log = logs.configure(service="s", level="warning", stream=stream)
    log.info("quiet")
    log.warning("loud")
    assert [line["event"] for line in lines(stream)] == ["loud"]


def test_an_exception_is_one_json_line() -> None:
    stream = io.StringIO()
    log = logs.configure(service="s", stream=stream)
    try:
        raise ValueError("no")
    except ValueError:
        log.exception("failed")
    (line,) = lines(stream)
    assert "ValueError: no" in str(line["exception"])


def test_console_style_is_for_people() -> None:
    stream = io.StringIO()
    logs.configure(service="s", style="console", stream=stream).info("hello")
    assert "hello" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


def test_services_do_without_rich_and_others_have_it() -> None:
    code = "import sys, stageline.logs; assert 'rich' not in sys.modules; import rich.table"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
