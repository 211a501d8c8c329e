"""What users want of workers: whether plans may use them, and labels by which models' wishes name them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from stageline.errors import ConfigError
from stageline.wire import Part

Duty = Literal["open", "cordoned", "drained"]
"""Open: plans use it. Cordoned: it keeps what it has loaded and gets nothing more. Drained: it is emptied."""

KEY, VALUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}"), re.compile(r"[A-Za-z0-9._/-]{0,63}")
MOST_LABELS = 64


class NodeWishes(Part, frozen=True):
    """What one worker is for; kept under its name, whether it is here or not."""

    duty: Duty = "open"
    labels: dict[str, str] = msgspec.field(default_factory=dict)


OPEN = NodeWishes()


def merge_node(
    old: NodeWishes, duty: Duty | None = None, labels: Mapping[str, str] | None = None, unset: Iterable[str] = ()
) -> NodeWishes:
    """`old` with what is said (None: nothing), without the labels in `unset`. Raises `ConfigError`."""
    said, gone = dict(labels or {}), set(unset)
    for key, value in said.items():
        if not KEY.fullmatch(key) or not VALUE.fullmatch(value):
            raise ConfigError(
                f"label {key[:80]}={value[:80]}: want letters, digits, . _ / and -, at most 63 on each side of the ="
            )
    both = sorted(gone & set(said))
    if both:
        raise ConfigError(f"label {both[0][:80]} cannot be set and taken off at once")
    unknown = sorted(gone - set(old.labels))
    if unknown:
        raise ConfigError(f"there is no label {unknown[0][:80]!r} to take off: there are {shown(old.labels) or 'none'}")
    kept = {key: value for key, value in old.labels.items() if key not in gone} | said
    if len(kept) > MOST_LABELS:
        raise ConfigError(f"a worker has at most {MOST_LABELS} labels, not {len(kept)}")
    return NodeWishes(duty=duty or old.duty, labels=dict(sorted(kept.items())))


def read_labels(words: Iterable[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Labels to set, ``key=value``, and keys of those to take off, ``key-``. Raises `ConfigError` for anything else."""
    said, gone = dict[str, str](), list[str]()
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key not in said:
            said[key] = value
        elif not equals and word.endswith("-") and len(word) > 1:
            gone.append(word[:-1])
        else:
            raise ConfigError(f"{word[:80]!r} is no label: want KEY=VALUE, or KEY- to take it off, each once")
    return said, tuple(dict.fromkeys(gone))


def is_selector(text: str) -> bool:
    """Whether it names workers by a label: ``key=value``, or ``key!=value`` for all others."""
    return "=" in text


def selects(text: str, name: str, labels: Mapping[str, str]) -> bool:
    """Whether a name or selector means the worker of that name and labels."""
    key, equals, value = text.partition("=")
    if not equals:
        return text == name
    return labels.get(key[:-1]) != value if key.endswith("!") else labels.get(key) == value


def check_selector(text: str) -> None:
    """Raises `ConfigError` for a selector that no label could match."""
    key, _, value = text.partition("=")
    if not KEY.fullmatch(key.removesuffix("!")) or not VALUE.fullmatch(value):
        raise ConfigError(f"{text[:80]!r} names no label: want KEY=VALUE or KEY!=VALUE, as in `stageline nodes list`")


def shown(labels: Mapping[str, str]) -> str:
    """``a=1 b=2``."""
    return " ".join(f"{key}={value}" for key, value in labels.items())


def to_json(wishes: NodeWishes) -> dict[str, object]:
    """Both, said or not."""
    found: dict[str, object] = {"duty": wishes.duty, "labels": msgspec.to_builtins(wishes.labels)}
    return found
