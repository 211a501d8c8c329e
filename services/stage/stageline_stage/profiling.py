"""Which blocks still have to be measured for which request. Pure: events in, messages out.

Blocks are measured one after the other, so that the first one missing from an answer is the one that failed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Union

from stageline.messages import BlockTime, Measure, Measured, Profiled, ProfileRequest

Step = Union[Measure, Profiled]
"""For the executor, or for the coordinator."""


@dataclass
class _Job:
    request: ProfileRequest
    waiting: list[int]
    manifest_file: str = ""
    graphs: Mapping[int, str] = field(default_factory=dict)
    times: list[BlockTime] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def next(self) -> Measure:
        """The measurement that is due."""
        block = self.waiting[0]
        return Measure(
            manifest=self.request.manifest,
            manifest_path=self.manifest_file,
            block=block,
            graph=self.graphs[block],
            batches=self.request.batches,
        )


class Profiling:
    """Requests under way."""

    def __init__(self) -> None:
        self._jobs: list[_Job] = []

    def request(self, request: ProfileRequest) -> bool:
        """A new request; False if the same one is under way already."""
        if any(job.request == request for job in self._jobs):
            return False
        self._jobs.append(_Job(request, list(dict.fromkeys(request.blocks))))
        return True

    def fetched(
        self, request: ProfileRequest, manifest_file: str, graphs: Mapping[int, str], fingerprint: str
    ) -> list[Step]:
        """Manifest and graphs are in the cache."""
        job = next((job for job in self._jobs if job.request == request), None)
        if job is None:
            return []
        job.manifest_file, job.graphs = manifest_file, graphs
        return [self._go_on(job, fingerprint)]

    def measured(self, answer: Measured, fingerprint: str) -> list[Step]:
        """A block was measured, or could not be."""
        steps: list[Step] = []
        for job in list(self._jobs):
            due = job.graphs and job.waiting[:1] == [answer.block]
            if job.request.manifest == answer.manifest and due:
                job.waiting.pop(0)
                job.times += answer.times
                job.errors += [answer.error] if answer.error else []
                steps.append(self._go_on(job, fingerprint))
        return steps

    def failed(self, request: ProfileRequest, error: str, fingerprint: str) -> list[Step]:
        """The blobs of a request cannot be had."""
        return [self._end(job, fingerprint, error) for job in list(self._jobs) if job.request == request]

    def executor_down(self, fingerprint: str) -> list[Step]:
        """The executor died, and all measurements with it."""
        return [
            self._end(job, fingerprint, f"the executor ended while block {job.waiting[0]} was to be measured")
            for job in list(self._jobs)
        ]

    def _go_on(self, job: _Job, fingerprint: str) -> Step:
        return job.next if job.waiting else self._end(job, fingerprint)

    def _end(self, job: _Job, fingerprint: str, error: str = "") -> Profiled:
        self._jobs.remove(job)
        errors = [*job.errors, *([error] if error else [])]
        return Profiled(
            manifest=job.request.manifest,
            fingerprint=fingerprint,
            times=tuple(job.times),
            error="; ".join(errors[:4]),
        )
