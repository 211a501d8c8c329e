"""Between two coordinators."""

from __future__ import annotations

from stageline.wire import Message, Part


class StoreRow(Part, frozen=True):
    """A row of the store, `body` its values (msgpack); of two versions of a row the one with the higher stamp is valid.

    The stamp is (`term` of the coordinator that changed it, `number` of the change there).
    """

    kind: str
    key: str
    term: int
    number: int
    gone: bool = False
    body: bytes = b""


class Standing(Part, frozen=True):
    """How a coordinator stands: its id, the highest term that it promised, the last that it took, whether it leads.

    `cluster` is empty as long as it belongs to none; `schema` is its store's; `address` is its control address.
    `stamp` is a number that it drew when it started or last stood still, `echo` the last stamp that it heard of the
    other's: what does not bear the other's present one may have been under way since before that (0: none).
    """

    coordinator: int
    cluster: str
    schema: int
    address: str
    blobs: str
    term: int = 0
    taken: int = 0
    leads: bool = False
    stamp: int = 0
    echo: int = 0


class Follow(Message, frozen=True):
    """From one coordinator to the other, with every heartbeat: send me your rows that changed after `since`.

    Everything up to your change `applied` is on my disk, blobs included.
    """

    standing: Standing
    since: int = 0
    applied: int = 0


class Followed(Message, frozen=True):
    """Answers `Follow`, and is sent whenever there is more: rows that changed after `after`, up to `upto` of `last`.

    `uploaded` are blobs that have just come and will be needed.
    """

    standing: Standing
    after: int = 0
    upto: int = 0
    last: int = 0
    rows: tuple[StoreRow, ...] = ()
    uploaded: tuple[str, ...] = ()
