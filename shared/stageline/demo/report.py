"""What the demo measured, as numbers. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stageline.bench.recorder import percentile
from stageline.demo.judge import Judge
from stageline.demo.load import OUTPUT, Sample


@dataclass(frozen=True)
class Tally:
    """Outcomes of one model's requests. `excess` is the largest deviation relative to what is tolerated."""

    requests: int = 0
    answered: int = 0
    wrong: int = 0
    lost: int = 0
    retried: int = 0
    bit_equal: int = 0
    alone: int = 0
    batched: int = 0
    excess: float = 0.0

    def __add__(self, other: Tally) -> Tally:
        sums = {name: getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__}
        return Tally(**{**sums, "excess": max(self.excess, other.excess)})


def tally(sent: int, samples: Sequence[Sample], judge: Judge) -> Tally:
    """Count; what was sent and has no result is lost."""
    total = Tally(requests=sent, lost=sent - sum(sample.result is not None for sample in samples))
    for sample in samples:
        if sample.result is None:
            continue
        verdict = judge(sample.index, sample.result.outputs[OUTPUT], sample.result.batch)
        total += Tally(
            answered=1,
            wrong=int(not verdict.right),
            retried=int(sample.result.attempts > 1),
            bit_equal=int(verdict.exact),
            alone=int(verdict.strict),
            batched=int(not verdict.strict),
            excess=verdict.excess,
        )
    return total


def accuracy(samples: Iterable[Sample], labels: Sequence[int]) -> float:
    """The fraction of answered images that were given their label."""
    answered = [sample for sample in samples if sample.result is not None]
    right = [
        int(sample.result.outputs[OUTPUT][0].argmax()) == labels[sample.index]
        for sample in answered
        if sample.result is not None
    ]
    return sum(right) / len(right) if right else 0.0


def latencies_ms(samples: Iterable[Sample]) -> list[float]:
    """From sending to the answer, of those that were answered."""
    return [1000 * (sample.done - sample.sent) for sample in samples if sample.result is not None]


def throughput(samples: Sequence[Sample]) -> float:
    """Answers per second from the first request to the last answer."""
    answered = [sample for sample in samples if sample.result is not None]
    if not answered:
        return 0.0
    seconds = max(sample.done for sample in answered) - min(sample.sent for sample in samples)
    return len(answered) / seconds if seconds > 0 else 0.0


def utilisation(samples: Sequence[Sample]) -> list[float]:
    """For each stage: the share of the time in which it computed this model's batches."""
    answered = [sample for sample in samples if sample.result is not None]
    if not answered:
        return []
    seconds = max(sample.done for sample in answered) - min(sample.sent for sample in samples)
    busy: dict[int, float] = {}
    for sample in answered:
        timings = sample.result.timings if sample.result else None
        for stage, timing in enumerate(timings.stages if timings else ()):
            share = timing.compute_us / 1e6 / (sample.result.batch if sample.result else 1)
            busy[stage] = busy.get(stage, 0.0) + share
    return [busy[stage] / seconds for stage in sorted(busy)]


def speed(samples: Mapping[str, Sequence[Sample]]) -> dict[str, Any]:
    """Throughput and latency over all models and for each."""

    def one(chosen: Sequence[Sample]) -> dict[str, float]:
        times = latencies_ms(chosen)
        return {
            "throughput_rps": round(throughput(chosen), 3),
            "p50_ms": round(percentile(times, 50), 3),
            "p99_ms": round(percentile(times, 99), 3),
        }

    together = [sample for chosen in samples.values() for sample in chosen]
    return {**one(together), "models": {name: one(chosen) for name, chosen in samples.items()}}
