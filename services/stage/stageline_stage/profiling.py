"""Which blocks still have to be measured for which request. Pure: events in, messages out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stageline.messages import BlockTime, Measure, Measured, Profiled, ProfileRequest


@dataclass
class _Job:
    request: ProfileRequest
    waiting: set[int]
    times: list[BlockTime] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


class Profiling:
    """Requests under way. Requests for the same model are measured one after the other."""

    def __init__(self) -> None:
        self._jobs: list[_Job] = []

    def request(self, request: ProfileRequest) -> bool:
        """A new request; False if the same one is under way already."""
        if any(job.request == request for job in self._jobs):
            return False
        self._jobs.append(_Job(request, set(request.blocks)))
        return True

    def fetched(self, request: ProfileRequest, manifest_file: str, graphs: Mapping[int, str]) -> list[Measure]:
        """Manifest and graphs are in the cache: what the executor shall measure."""
        job = self._job(request)
        if job is None:
            return []
        return [
            Measure(
                manifest=request.manifest,
                manifest_path=manifest_file,
                block=block,
                graph=graphs[block],
                batches=request.batches,
            )
            for block in sorted(job.waiting)
        ]

    def measured(self, answer: Measured, fingerprint: str) -> list[Profiled]:
        """A block was measured, or could not be."""
        done: list[Profiled] = []
        for job in [j for j in self._jobs if j.request.manifest == answer.manifest and answer.block in j.waiting]:
            job.waiting.discard(answer.block)
            job.times += answer.times
            job.errors += [answer.error] if answer.error else []
            if not job.waiting:
                self._jobs.remove(job)
                done.append(_answer(job, fingerprint))
        return done

    def failed(self, request: ProfileRequest, error: str, fingerprint: str) -> list[Profiled]:
        """The blobs of a request cannot be had."""
        job = self._job(request)
        if job is None:
            return []
        self._jobs.remove(job)
        job.errors.append(error)
        return [_answer(job, fingerprint)]

    def executor_down(self, fingerprint: str) -> list[Profiled]:
        """The executor died, and all measurements with it."""
        jobs, self._jobs = self._jobs, []
        for job in jobs:
            blocks = ", ".join(map(str, sorted(job.waiting)[:8]))
            job.errors.append(f"the executor ended while blocks {blocks} were being measured")
        return [_answer(job, fingerprint) for job in jobs]

    def _job(self, request: ProfileRequest) -> _Job | None:
        return next((job for job in self._jobs if job.request == request), None)


def _answer(job: _Job, fingerprint: str) -> Profiled:
    return Profiled(
        manifest=job.request.manifest,
        fingerprint=fingerprint,
        times=tuple(sorted(job.times, key=lambda time: (time.block, time.batch))),
        error="; ".join(job.errors[:4]),
    )
