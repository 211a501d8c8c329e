"""Names for people: of blocks, from the modules they come from, and of outputs, from the model's result."""

from __future__ import annotations

from collections.abc import Sequence

from torch.export import ExportedProgram
from torch.utils import _pytree as pytree


def block_names(paths: Sequence[Sequence[str]]) -> list[str]:
    """One distinct name per block from the module paths of its calls: their longest common path,
    or that of the first call where there is none."""
    names: list[str] = []
    for i, block in enumerate(paths):
        parts = [path.split(".") for path in block if path]
        name = ".".join(_common(parts)) or ".".join(next(iter(parts), [f"block{i}"]))
        names.append(_distinct(name[-100:], names))
    return names


def _common(paths: Sequence[Sequence[str]]) -> list[str]:
    common: list[str] = []
    for level in zip(*paths, strict=False):
        if len(set(level)) > 1:
            break
        common.append(level[0])
    return common


def _distinct(name: str, taken: Sequence[str]) -> str:
    number, candidate = 2, name
    while candidate in taken:
        candidate = f"{name}.{number}"
        number += 1
    return candidate


def output_names(program: ExportedProgram) -> list[str]:
    """Names of the flat outputs: the keys of a mapping or object, "output" for a lone tensor, else "output_0" …."""
    spec = program.call_spec.out_spec
    if spec is None or spec.is_leaf():
        return ["output"]
    dummy = pytree.tree_unflatten(list(range(spec.num_leaves)), spec)
    names: list[str] = []
    for path, _ in pytree.tree_flatten_with_path(dummy)[0]:
        keys = [_key(entry) for entry in path]
        name = "_".join(keys) if not keys[0].isdigit() else "_".join(["output", *keys])
        names.append(_distinct(name if spec.num_leaves > 1 or not keys[0].isdigit() else "output", names))
    return names


def _key(entry: object) -> str:
    for attribute in ("key", "idx", "name"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)
