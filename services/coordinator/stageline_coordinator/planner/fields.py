"""Reading JSON values whose errors name the field, e.g. ``models[0].blocks[3].weight_bytes``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stageline.errors import ConfigError
from stageline.fields import is_text
from stageline_coordinator.limits import MAX_BYTES


@dataclass(frozen=True)
class Field:
    """A JSON value and where it stands in its document. Every method raises `ConfigError` naming the path."""

    value: object
    path: str

    def fail(self, problem: str) -> ConfigError:
        return ConfigError(f"{self.path or 'document'}: {problem}")

    def key(self, name: str) -> Field:
        """The member `name`, which must be there."""
        found = self.optional(name)
        if found is None:
            raise Field(None, self._at(name)).fail("missing")
        return found

    def optional(self, name: str) -> Field | None:
        """The member `name`, or None where it is absent or null."""
        if not isinstance(self.value, Mapping):
            raise self.fail("must be an object")
        value = self.value.get(name)
        return None if value is None else Field(value, self._at(name))

    def items(self) -> list[Field]:
        if not isinstance(self.value, Sequence) or isinstance(self.value, (str, bytes)):
            raise self.fail("must be a list")
        return [Field(value, f"{self.path}[{i}]") for i, value in enumerate(self.value)]

    def some(self) -> list[Field]:
        """The items of a list that must not be empty."""
        found = self.items()
        if not found:
            raise self.fail("must have at least one")
        return found

    def members(self) -> list[tuple[str, Field]]:
        if not isinstance(self.value, Mapping):
            raise self.fail("must be an object")
        names = [Field(name, self.path).text() for name in self.value]
        return [(name, Field(self.value[name], self._at(name))) for name in names]

    def number(self) -> float:
        if isinstance(self.value, bool) or not isinstance(self.value, (int, float)):
            raise self.fail("must be a number")
        try:
            number = float(self.value)
        except OverflowError:
            raise self.fail("is too large") from None
        if not math.isfinite(number):
            raise self.fail("must be finite")
        return number

    def integer(self) -> int:
        number = self.number()
        if not number.is_integer():
            raise self.fail("must be a whole number")
        return int(number)

    def text(self) -> str:
        if not isinstance(self.value, str):
            raise self.fail("must be a string")
        if not is_text(self.value):
            raise self.fail("must be text: half of a surrogate pair is none")
        return self.value

    def flag(self) -> bool:
        if not isinstance(self.value, bool):
            raise self.fail("must be true or false")
        return self.value

    def span(self) -> tuple[int, int]:
        """A non-empty half-open range of whole numbers, [start, end)."""
        ends = [item.integer() for item in self.items()]
        if len(ends) != 2 or not 0 <= ends[0] < ends[1]:
            raise self.fail("must be [start, end) with 0 <= start < end")
        return ends[0], ends[1]

    def numbers(self) -> tuple[float, ...]:
        return tuple(item.number() for item in self.items())

    def _at(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name


def check_number(value: float, path: str, *, positive: bool = False, infinite: bool = False) -> None:
    """Raises `ConfigError` unless value ≥ 0 (> 0 if `positive`) and finite (or inf, if `infinite`)."""
    if math.isnan(value):
        raise ConfigError(f"{path}: must not be NaN")
    if math.isinf(value) and not (infinite and value > 0):
        raise ConfigError(f"{path}: must be finite")
    if value < 0 or (positive and value == 0):
        raise ConfigError(f"{path}: must be {'above 0' if positive else '0 or more'}, not {value:g}")


def check_bytes(value: int, path: str) -> None:
    """Raises `ConfigError` unless `value` is a whole number of bytes in [0, 2**50]."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{path}: must be a whole number of bytes")
    if not 0 <= value <= MAX_BYTES:
        raise ConfigError(f"{path}: must be between 0 and 2**50 bytes")


def check_count(value: int, path: str) -> None:
    """Raises `ConfigError` unless `value` is a whole number above 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{path}: must be a whole number above 0, not {value}")


def check_size(sequence: Sequence[object], size: int, path: str, meaning: str) -> None:
    """Raises `ConfigError` unless `sequence` has `size` entries; `meaning` says why that many."""
    if len(sequence) != size:
        raise ConfigError(f"{path}: must have {size} entries ({meaning}), not {len(sequence)}")


def check_names(names: Sequence[str], path: str, key: str) -> None:
    """Raises `ConfigError` for an empty or a repeated name."""
    seen: set[str] = set()
    for i, name in enumerate(names):
        if not name:
            raise ConfigError(f"{path}[{i}].{key}: must not be empty")
        if name in seen:
            raise ConfigError(f"{path}[{i}].{key}: '{name}' is used twice")
        seen.add(name)
