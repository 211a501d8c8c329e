"""What one connection's unanswered requests take of its token's allowance. Pure; seconds are passed in."""

from __future__ import annotations

import msgspec

from stageline.errors import InvalidInputError
from stageline.protocol import Error, Infer, Result, ToClient
from stageline_gateway.allowance import Allowance

MAX_USER = 256


class Charges:
    """Every request is charged once, from `begin` until its outcome goes out or the connection ends."""

    def __init__(self, allowance: Allowance) -> None:
        self.allowance = allowance
        self._ids: set[int] = set()

    def begin(self, infer: Infer, user: str, now: float) -> Infer:
        """The request as it is to be admitted, of `user` if it names none; idempotency keys are the token's own.

        Raises `ForbiddenError` without the scope, `RejectedError` beyond a limit, `InvalidInputError` for a user too
        long. An id that is still unanswered is not charged again: it ends the connection.
        """
        self.allowance.need("infer")
        owner = f"{self.allowance.token.id}:{infer.user or user}"
        if len(owner) > MAX_USER:
            most = MAX_USER - len(owner) + len(infer.user or user)
            raise InvalidInputError(f"user has more than {most} characters, which is the most with a token")
        if infer.id not in self._ids:
            self.allowance.begin(now)
            self._ids.add(infer.id)
        return msgspec.structs.replace(infer, user=owner)

    def look(self, now: float) -> None:
        """Asking for models counts for the rate alone. Raises `RejectedError`."""
        self.allowance.take(now)

    def sent(self, message: ToClient) -> None:
        """Something goes to the client: maybe an outcome."""
        if isinstance(message, (Result, Error)) and message.id in self._ids:
            self._ids.discard(message.id)
            self.allowance.end()

    def end(self) -> None:
        """The connection has ended."""
        self.allowance.end(len(self._ids))
        self._ids.clear()
