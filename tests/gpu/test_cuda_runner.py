from __future__ import annotations

import pytest
import torch

from stageline.errors import ConfigError
from stageline_stage.executor.device import CudaRunner, choose_device
from stageline_stage.executor.runtime import traits, warm_up

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture
def runner() -> CudaRunner:
    device = choose_device("cuda:0")
    return CudaRunner(device)


def test_the_device_is_chosen_and_named() -> None:
    assert choose_device("auto") == torch.device("cuda:0")
    with pytest.raises(ConfigError, match="cuda:0"):
        choose_device("cuda:99")
    assert "cuda" in traits(torch.device("cuda:0"), 1).device


def test_batches_in_flight_keep_their_own_data(runner: CudaRunner) -> None:
    weight = torch.randn(512, 512, device=runner.device)

    def stage(x: torch.Tensor, n: int) -> tuple[torch.Tensor, int]:
        for _ in range(20):
            x = torch.tanh(x @ weight)
        return x * n, n

    with torch.inference_mode():
        inputs = [torch.randn(8, 512) for _ in range(40)]
        expected = [stage(x.to(runner.device), i)[0].cpu() for i, x in enumerate(inputs)]
        running = []
        for i, x in enumerate(inputs):
            running.append(runner.start(stage, [x, i]))
            if len(running) >= runner.depth:
                index = i - len(running) + 1
                (result, number), seconds = running.pop(0).wait()
                assert number == index and seconds > 0
                assert result.device.type == "cpu" and torch.equal(result, expected[index])


def test_an_error_of_the_stage_is_raised_and_the_next_batch_runs(runner: CudaRunner) -> None:
    with torch.inference_mode():
        with pytest.raises(RuntimeError):
            runner.start(lambda x: (x @ torch.ones(3, 3, device=x.device),), [torch.ones(2, 2)])
        (result,), _ = runner.start(lambda x: (x + 1,), [torch.ones(2, 2)]).wait()
    assert result.tolist() == [[2.0, 2.0], [2.0, 2.0]]


def test_results_lie_in_pinned_memory_and_memory_is_counted(runner: CudaRunner) -> None:
    warm_up(runner.device)
    runner.peak_bytes(reset=True)
    with torch.inference_mode():
        (result,), _ = runner.start(lambda x: (x.t(),), [torch.arange(6.0).reshape(2, 3)]).wait()
    assert result.is_pinned() and result.is_contiguous() and result.shape == (3, 2)
    assert runner.peak_bytes() > 0
