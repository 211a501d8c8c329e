"""A real worker whose stage torch serves first and OpenVINO takes over."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
import torch

from stageline.messages import ExecutorDown, ExecutorUp, Pong, Prepared
from stageline.plan import StageKey
from stageline_stage.backends.openvino import OpenVino

pytestmark = pytest.mark.skipif(bool(OpenVino().available()), reason=OpenVino().available())
WIDTH = 48
COMPILED_S = 240.0
"""At the lowest priority."""


def test_openvino_takes_over_and_is_left_after_a_crash(cluster: Any, models: Any) -> None:
    weight = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(3))
    manifest = models.model(models.block("linear", WIDTH, "aten.linear.default", weight))
    key = StageKey(manifest=manifest, start=0, end=1)
    cluster.join("--backend", "openvino")
    assert isinstance(cluster.prepare(1, key), Prepared)
    wait(cluster, lambda page: 'backend_stages{backend="openvino"} 1.0' in page)
    for number in range(1, 6):  # the first ones are computed by both
        x = torch.randn(number, WIDTH)
        cluster.push(cluster.activation(x, key, number=number))
        _, (y,) = cluster.result()
        assert torch.allclose(y, torch.nn.functional.linear(x, weight), rtol=1e-4, atol=1e-5)
    os.kill(cluster.executor.pid, signal.SIGSEGV)
    assert cluster.wait_for(ExecutorDown).exit_code == -signal.SIGSEGV
    cluster.executor = cluster.wait_for(ExecutorUp).executor
    assert isinstance(cluster.prepare(2, key), Prepared)
    page = wait(cluster, lambda page: "backend_fallbacks_total 1.0" in page)
    assert 'backend_stages{backend="eager"} 1.0' in page and "openvino" not in page
    told = cluster.wait_for(Pong, lambda pong: pong.progress[0].backends).progress[0].backends
    assert [(one.stage, one.backend) for one in told] == [(key, "eager")] and "crashed" in told[0].reason


def wait(cluster: Any, found: Callable[[str], bool]) -> str:
    """The worker's metrics, once they are as wished; heartbeats are answered meanwhile."""
    address = json.loads((cluster.folder / "ready").read_text())["http"]
    deadline = time.monotonic() + COMPILED_S
    while time.monotonic() < deadline:
        cluster.wait_for(Pong)
        with urllib.request.urlopen(f"{address}/metrics", timeout=10) as answer:
            page = str(answer.read(), "utf-8")
        if found(page):
            return page
    raise AssertionError("what was waited for is not in the metrics")
