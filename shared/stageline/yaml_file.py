"""Reading YAML that people write, with no more work than the file is long."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from stageline.errors import ConfigError

MAX_BYTES = 1 << 20


class _Loader(yaml.BaseLoader):
    """Every scalar is text, as an environment variable is: what it means is its setting's business, not YAML's.

    Aliases are refused: a few lines of them can stand for more than memory holds (the "billion laughs").
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not read: write it out", mark)
        return super().compose_node(parent, index)


def read_yaml(path: Path) -> Any:
    """Mappings, lists and text; None for an empty file. Raises `ConfigError` naming the file."""
    return _read(path, lambda text: yaml.load(text, _Loader))


def compose_yaml(path: Path) -> yaml.Node | None:
    """The same as nodes that know their lines. Raises `ConfigError` naming the file."""
    found: yaml.Node | None = _read(path, lambda text: yaml.compose(text, _Loader))
    return found


def _read(path: Path, parse: Callable[[str], Any]) -> Any:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path} is larger than {MAX_BYTES} bytes: it is no config file")
        return parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the config file {path}: {error.strerror}") from None
    except (ValueError, OverflowError) as error:  # \U00110000 in quotes; as text it is not UTF-8
        raise ConfigError(f"{path} is not valid YAML: a character that does not exist ({error})") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path} is nested too deeply") from None
