"""Copies and fingerprints of states made of plain Python objects, fast enough for exploration.

`copy.deepcopy` copies what never changes, which is most of a plan; a copy here shares it.
"""

from __future__ import annotations

import functools
import types
from collections import OrderedDict, deque
from collections.abc import Iterable
from enum import Enum
from typing import Any

import msgspec

_PLAIN = (str, bytes, int, float, bool, type(None), Enum, type, frozenset, types.FunctionType)
MARK = "_mark"
_IGNORED = frozenset({"stats", "observed", "_flows", "_handlers", "_timer_handlers", "out", MARK})
"""Counters of what was measured, and what is the same in every state: no part of what a state is."""

_marks: dict[int, tuple[Any, int]] = {}
"""Fingerprints of what cannot change, by identity; the object is kept so that its identity stays its own."""


@functools.cache
def _kind(of: type) -> str:
    """How objects of a type are treated; `TypeError` for one that nobody thought of."""
    params = getattr(of, "__dataclass_params__", None)
    rules = (
        ("plain", issubclass(of, _PLAIN)),
        ("view", issubclass(of, memoryview)),
        ("fixed", issubclass(of, msgspec.Struct) or (params is not None and params.frozen)),
        ("method", issubclass(of, types.MethodType)),
        ("ordered", issubclass(of, OrderedDict)),
        ("dict", issubclass(of, dict)),
        ("list", issubclass(of, (list, deque))),
        ("tuple", issubclass(of, tuple)),
        ("set", issubclass(of, set)),
        ("object", hasattr(of, "__dict__")),
    )
    for name, fits in rules:
        if fits:
            return name
    raise TypeError(f"do not know how to treat a {of.__name__}")


def clone(one: Any, known: dict[int, Any]) -> Any:
    """A copy that shares what cannot change. `known`: the copies made so far, by the identity of their originals."""
    kind = _kind(type(one))
    if kind in ("plain", "fixed", "view"):
        return one
    key = id(one)
    if key in known:
        return known[key]
    if kind == "method":
        return types.MethodType(one.__func__, clone(one.__self__, known))
    if kind == "tuple":
        items = [clone(item, known) for item in one]
        same = all(a is b for a, b in zip(items, one, strict=True))
        return one if same else type(one)(*items) if hasattr(one, "_fields") else tuple(items)
    made: Any = object.__new__(type(one)) if kind == "object" else type(one)()
    known[key] = made
    if kind == "object":
        for name, value in _fields(one):
            if name != MARK:
                object.__setattr__(made, name, clone(value, known))
    elif kind in ("dict", "ordered"):
        made.update({name: clone(value, known) for name, value in one.items()})
    elif kind == "list":
        made.extend([clone(item, known) for item in one])
    else:
        made.update(one)
    return made


def fingerprint(one: Any, seen: set[int]) -> Any:
    """A hashable value, equal for states that behave alike. `seen`: the objects that are in it already."""
    kind = _kind(type(one))
    if kind == "plain":
        return one
    if kind == "fixed":
        return _mark(one)
    if kind in ("view", "set"):
        return bytes(one) if kind == "view" else frozenset(one)
    if kind == "method":
        return one.__func__
    if kind == "tuple":
        return tuple([fingerprint(item, seen) for item in one])
    if id(one) in seen:
        return None
    seen.add(id(one))
    if kind == "object":
        return _of_object(one, seen)
    if kind == "list":
        return tuple([fingerprint(item, seen) for item in one])
    items = [(fingerprint(key, seen), fingerprint(value, seen)) for key, value in one.items()]
    return tuple(items) if kind == "ordered" else frozenset(items)


def mark(part: Any, shared: Iterable[object]) -> int:
    """The hash of an object's fingerprint, which it keeps: it must not change any more, only copies of it may.

    `shared`: what is the same in all states.
    """
    known: int | None = part.__dict__.get(MARK)
    if known is None:
        known = part.__dict__[MARK] = hash(fingerprint(part, set(map(id, shared))))
    return known


def _of_object(one: Any, seen: set[int]) -> Any:
    return (type(one), *[fingerprint(value, seen) for name, value in _fields(one) if name not in _IGNORED])


def _fields(one: Any) -> Iterable[tuple[str, Any]]:
    slots: tuple[str, ...] = getattr(type(one), "__slots__", ())
    return [(name, getattr(one, name)) for name in slots] if slots else one.__dict__.items()


def _mark(one: Any) -> int:
    known = _marks.get(id(one))
    if known is None:
        content = msgspec.msgpack.encode(one) if isinstance(one, msgspec.Struct) else _of_object(one, set())
        known = _marks[id(one)] = (one, hash((type(one), content)))
    return known[1]
