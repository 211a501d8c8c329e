"""Strict reading of JSON objects that came from elsewhere: every field is checked, and named when wrong."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from stageline.errors import ManifestError

SHA256 = re.compile(r"[0-9a-f]{64}")
MAX_INT = 2**63 - 1


def is_text(value: str) -> bool:
    """Whether the string has a UTF-8 form; JSON can spell ones that have not, such as "\\ud800"."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


class Fields:
    """One JSON object whose fields are taken by name and type.

    `where` is the path of the object inside the document ("blocks[3]"); every `ManifestError` names it. The
    keys must be exactly `required`, plus any of `optional`.
    """

    def __init__(self, obj: object, where: str, required: Collection[str], optional: Collection[str] = ()) -> None:
        self.where = where
        if not isinstance(obj, dict):
            raise ManifestError(f"{where} must be a JSON object, not {type(obj).__name__}")
        missing = [key for key in required if key not in obj]
        if missing:
            raise ManifestError(f"{where} lacks the field {missing[0]!r}")
        unknown = [key for key in obj if key not in required and key not in optional]
        if unknown:
            raise ManifestError(f"{where} has an unknown field {unknown[0]!r:.60}")
        self._obj: dict[str, Any] = obj

    def bad(self, key: str, wanted: str) -> ManifestError:
        """The error for field `key` that is not `wanted`."""
        return ManifestError(f"{self.where}.{key} must be {wanted}")

    def raw(self, key: str) -> Any:
        """The field as JSON gave it, or None."""
        return self._obj.get(key)

    def text(self, key: str, pattern: str = r".*", max_length: int = 256) -> str:
        """A string that matches `pattern` as a whole and is at most `max_length` characters long."""
        value = self._obj[key]
        if not isinstance(value, str) or len(value) > max_length or not re.fullmatch(pattern, value, re.DOTALL):
            wanted = f"a string of at most {max_length} characters"
            raise self.bad(key, wanted if pattern == r".*" else f"{wanted} that matches {pattern}")
        if not is_text(value):
            raise self.bad(key, "text: half of a surrogate pair is none, and no message can carry it")
        return value

    def sha(self, key: str) -> str:
        """A SHA-256 as 64 lower-case hex digits."""
        value = self._obj[key]
        if not isinstance(value, str) or not SHA256.fullmatch(value):
            raise self.bad(key, "a SHA-256 of 64 lower-case hex digits")
        return value

    def integer(self, key: str, low: int = 0, high: int = MAX_INT) -> int:
        """An integer in the closed interval [low, high]."""
        value = self._obj[key]
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.bad(key, f"an integer in [{low}, {high}]")
        return value

    def number(self, key: str, low: float, high: float) -> float:
        """A finite number in the closed interval [low, high]."""
        value = self._obj[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise self.bad(key, f"a number in [{low}, {high}]")
        return float(value)

    def array(self, key: str, max_length: int) -> list[Any]:
        """A list of at most `max_length` entries."""
        value = self._obj[key]
        if not isinstance(value, list) or len(value) > max_length:
            raise self.bad(key, f"a list of at most {max_length} entries")
        return value

    def mapping(self, key: str, max_length: int) -> dict[str, Any]:
        """An object of at most `max_length` entries."""
        value = self._obj[key]
        if not isinstance(value, dict) or len(value) > max_length or not all(isinstance(k, str) for k in value):
            raise self.bad(key, f"an object of at most {max_length} entries")
        return value
