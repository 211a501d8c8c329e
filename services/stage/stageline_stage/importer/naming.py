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


def input_names(program: ExportedProgram) -> list[str]:
    """The names that callers use for the inputs, in the order of the graph's placeholders.

    A placeholder's own name differs where the caller's is taken, e.g. `input` by Python itself.
    """
    placeholders = program.graph_signature.user_inputs
    dummy = pytree.tree_unflatten(list(range(len(placeholders))), program.call_spec.in_spec)
    names: list[str] = []
    for path, position in pytree.tree_flatten_with_path(dummy)[0]:
        placeholder = str(placeholders[position])
        keys = [_key(entry) for entry in path[1:]]
        given_by_name = _key(path[0]) == "1"
        names.append(_distinct("_".join(keys) if given_by_name else placeholder, names))
    return names


def _key(entry: object) -> str:
    for attribute in ("key", "idx", "name"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)
