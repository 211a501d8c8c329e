"""What became of every request, as its client saw it. Pure: times come in as seconds."""

from __future__ import annotations

from dataclasses import dataclass, field

REFUSED = frozenset({"rejected", "unavailable"})
EXPIRED = "deadline"


@dataclass
class Request:
    """One request; `outcomes` are ("answer" or an error's code, when), in the order in which they came.

    `for_good`: it was refused, and not told when to come back.
    """

    sent: float
    accepted: float | None = None
    outcomes: list[tuple[str, float]] = field(default_factory=list)
    attempts: int = 1
    wrong: str = ""
    for_good: bool = False


@dataclass(frozen=True)
class Tally:
    """Requests by outcome. `repeated` were dispatched more than once; `late` ended after deadline and slack.

    `for_good`: those of the refused whose error may not be retried, or does not say after how long.
    """

    sent: int = 0
    accepted: int = 0
    answered: int = 0
    refused: int = 0
    expired: int = 0
    failed: int = 0
    wrong: int = 0
    stolen: int = 0
    lost: int = 0
    duplicated: int = 0
    repeated: int = 0
    late: int = 0
    for_good: int = 0


class Ledger:
    """One writer, any reader."""

    def __init__(self, deadline_s: float, slack_s: float) -> None:
        self._allowed = deadline_s + slack_s
        self.requests: dict[int, Request] = {}
        self.settled = 0
        self.answered = 0
        self.strangers = 0
        self.breaks: list[float] = []
        self.errors: list[str] = []

    @property
    def outstanding(self) -> int:
        """Sent and without an outcome."""
        return len(self.requests) - self.settled

    def send(self, number: int, now: float) -> None:
        """It goes out; sent again after a broken connection it stays the same request."""
        self.requests.setdefault(number, Request(now))

    def accept(self, number: int, now: float) -> None:
        """The gateway says that it has it."""
        request = self._of(number)
        if request is not None and request.accepted is None:
            request.accepted = now

    def answer(self, number: int, now: float, *, attempts: int, wrong: str) -> None:
        """A result came; `wrong` says what is wrong with it."""
        request = self._of(number)
        if request is not None:
            request.attempts, request.wrong = attempts, request.wrong or wrong
            self.answered += not request.outcomes
            self._settle(request, "answer", now)

    def error(
        self, number: int, now: float, code: str, message: str, *, retryable: bool, retry_after_ms: float | None
    ) -> None:
        """It ended otherwise; the last two as the error has them."""
        request = self._of(number)
        if request is not None:
            request.for_good |= code in REFUSED and not (retryable and retry_after_ms and retry_after_ms > 0)
            self.errors.append(f"{code}: {message}")
            self._settle(request, code, now)

    def broke(self, now: float) -> None:
        """The connection broke."""
        self.breaks.append(now)

    def unsettled(self) -> list[int]:
        """The numbers of the requests without an outcome."""
        return [number for number, request in self.requests.copy().items() if not request.outcomes]

    def settled_after(self, numbers: list[int]) -> float | None:
        """When the last of these had its outcome; None if one never had."""
        ends = [self.requests[number].outcomes for number in numbers]
        return max((outcomes[0][1] for outcomes in ends), default=None) if all(ends) else None

    def tally(self) -> Tally:
        """The counts; what has no outcome yet is lost."""
        all_of = self.requests.copy().values()
        first = [request.outcomes[0][0] for request in all_of if request.outcomes]
        expected = {"answer", EXPIRED, *REFUSED}
        return Tally(
            sent=len(all_of),
            accepted=sum(request.accepted is not None for request in all_of),
            answered=first.count("answer"),
            refused=sum(code in REFUSED for code in first),
            expired=first.count(EXPIRED),
            failed=sum(code not in expected for code in first),
            wrong=sum(bool(request.wrong) for request in all_of),
            stolen=sum(request.wrong.startswith("stolen") for request in all_of),
            lost=sum(not request.outcomes for request in all_of),
            duplicated=self.strangers + sum(max(0, len(request.outcomes) - 1) for request in all_of),
            repeated=sum(request.attempts > 1 for request in all_of),
            for_good=sum(request.for_good for request in all_of),
            late=sum(bool(r.outcomes) and r.outcomes[0][1] > r.sent + self._allowed for r in all_of),
        )

    def _of(self, number: int) -> Request | None:
        request = self.requests.get(number)
        self.strangers += request is None
        return request

    def _settle(self, request: Request, code: str, now: float) -> None:
        self.settled += not request.outcomes
        request.outcomes.append((code, now))
