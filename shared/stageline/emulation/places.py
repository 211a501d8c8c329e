"""Values of a YAML file that know where they stand: every error names the file, the line and the key."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from stageline.errors import ConfigError
from stageline.yaml_file import compose_yaml


@dataclass(frozen=True)
class Place:
    """A value and where it is. Methods raise `ConfigError` naming that for what is not of the kind asked for."""

    file: str
    path: str
    node: yaml.Node

    @classmethod
    def read(cls, path: Path) -> Place:
        """The whole of a file. Raises `ConfigError` for what is no YAML."""
        node = compose_yaml(path)
        if node is None:
            raise ConfigError(f"{path} is empty")
        return cls(str(path), "", node)

    def error(self, problem: str) -> ConfigError:
        """About this place."""
        where = f"{self.file}, line {self.node.start_mark.line + 1}"
        return ConfigError(f"{where}: {self.path} {problem}" if self.path else f"{where}: {problem}")

    def members(self, known: Sequence[str] = (), required: Sequence[str] = ()) -> dict[str, Place]:
        """By key. With `known`, any other key is an error, as is the lack of one that is `required`."""
        if not isinstance(self.node, yaml.MappingNode):
            raise self.error("must be a mapping of keys to values")
        found: dict[str, Place] = {}
        for key, value in self.node.value:
            here = Place(self.file, self._under(str(key.value)), key)
            if not isinstance(key, yaml.ScalarNode):
                raise self.error("has a key that is no text")
            if known and key.value not in known:
                raise here.error(f"is not known here: there are {', '.join(known)}")
            if key.value in found:
                raise here.error("is there twice")
            found[key.value] = Place(self.file, here.path, value)
        for name in required:
            if name not in found:
                raise self.error(f"lacks {name}" if self.path else f"{name} is missing")
        return found

    def items(self) -> list[Place]:
        """Of a list that is not empty."""
        if not isinstance(self.node, yaml.SequenceNode) or not self.node.value:
            raise self.error("must be a list that is not empty")
        return [Place(self.file, f"{self.path}[{i}]", node) for i, node in enumerate(self.node.value)]

    def text(self) -> str:
        """One line that is not empty."""
        value = self.node.value
        if not isinstance(self.node, yaml.ScalarNode) or not value.strip() or not value.isprintable():
            raise self.error("must be text")
        return str(value)

    def number(self, low: float, high: float) -> float:
        """In [low, high]."""
        try:
            value = float(self.text())
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise self.error(f"must be a number from {low:g} to {high:g}, not {str(self.node.value)[:40]!r}")
        return value

    def integer(self, low: int, high: int) -> int:
        """In [low, high]."""
        value = self.number(low, high)
        if value != int(value):
            raise self.error(f"must be a whole number, not {value:g}")
        return int(value)

    def _under(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key
