"""Whether who knocks with a token is let in. Pure: times are Unix seconds passed in."""

from __future__ import annotations

from dataclasses import dataclass, replace

from stageline.jointoken import BEFOREHAND, hashed, proves, secret_of
from stageline.keyfiles import NAME
from stageline.messages import Join, Refused
from stageline.wire import PROTOCOL_MAX, PROTOCOL_MIN

CLOCK_S = 300.0
"""Clocks that are further apart are worth a word: logs, certificates and expiry dates would not mean what they say."""

ANY_NUMBER = -1


@dataclass(frozen=True)
class Token:
    """What is kept of one; `uses` that are left (-1: any number), until `expires` (Unix seconds)."""

    id: str
    hash: str
    uses: int
    expires: float


@dataclass(frozen=True)
class Key:
    """Whose key it is, in hexadecimal digits, and whether it is revoked."""

    name: str
    public: str
    revoked: bool = False


def made_beforehand(identity: str, key: bytes) -> Token | None:
    """The token of that name that was made from the coordinator's secret `key`; None for the name of another kind."""
    found = BEFOREHAND.fullmatch(identity)
    return Token(identity, hashed(secret_of(identity, key)), ANY_NUMBER, float(int(found[1], 16))) if found else None


@dataclass(frozen=True)
class OldKey:
    """A key that another took the place of; let in under `name` until then (Unix seconds), and never again.

    `filed`: a file let that name in, so that it goes when the file does, whatever key it has by then.
    """

    public: str
    name: str
    until: float
    filed: bool = False


def judge(join: Join, key: str, token: Token | None, owner: Key | None, now: float) -> Refused | Token:
    """Why it is not let in, or the token as it is afterwards.

    `owner` has the name that is asked for now. The same key may join again under its name without using the token up:
    the answer may have been lost.
    """
    if join.protocol_min > PROTOCOL_MAX or join.protocol_max < PROTOCOL_MIN:
        theirs, ours = f"{join.protocol_min}-{join.protocol_max}", f"{PROTOCOL_MIN}-{PROTOCOL_MAX}"
        text = f"it speaks protocol {theirs} (version {join.version[:40]}), the coordinator {ours}"
        return Refused(code="protocol", message=f"{text}: upgrade the older of the two")
    if not NAME.fullmatch(join.name):
        return Refused(code="config", message="the name must be of letters, digits, . _ and -: choose another --name")
    if token is None or not proves(join.secret, token.hash):
        return _forbidden("the join token is not one of this coordinator's: make one with `stageline nodes token`")
    ahead = join.time_s - now
    if not abs(ahead) <= CLOCK_S:
        way = "ahead of" if ahead > 0 else "behind"
        return Refused(code="clock", message=f"its clock is {abs(ahead):.0f} s {way} the coordinator's: set it right")
    if owner is not None and owner.public == key:
        if owner.revoked:
            return _forbidden("this key was revoked: delete its directory of keys, so that it makes a new one")
        return token
    if now >= token.expires:
        return _forbidden(
            f"the join token expired {now - token.expires:.0f} s ago: make one with `stageline nodes token`"
        )
    if owner is not None and not owner.revoked:
        return _forbidden(
            f"the name {join.name!r} belongs to another key: choose another --name, or `stageline keys revoke` it"
        )
    if token.uses == 0:
        return _forbidden("the join token is used up: make one with `stageline nodes token`")
    return replace(token, uses=token.uses - 1) if token.uses > 0 else token


def _forbidden(text: str) -> Refused:
    return Refused(code="forbidden", message=text)
