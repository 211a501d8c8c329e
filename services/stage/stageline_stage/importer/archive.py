"""Look into a `.pt2` archive without torch, refuse what is unsafe, and write a clean copy of the rest.

torch's own loader unpickles some payloads, evaluates size formulas as Python and resolves call targets by
attribute look-up. So only a copy made here is ever loaded: raw tensors, their configs, and a graph whose every
target, formula and structure was checked. Sample inputs, which are pickled, are left empty.
"""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from stageline.errors import ModelImportError, UnsafeArchiveError, UnsupportedOperatorError

MAX_ENTRIES, MAX_JSON_BYTES, MAX_TOTAL_BYTES = 100_000, 64 << 20, 64 << 30
_PAYLOAD = re.compile(r"data/(weights/weight|constants/tensor)_\d+")
_CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_GRAPH, _SAMPLE = "models/model.json", "data/sample_inputs/model.pt"
_MARKERS = ("archive_format", "archive_version", "byteorder", ".data/version", ".data/serialization_id")
_MAGIC = b"PK\3\4"  # what a zip archive begins with
_ENCRYPTED = 1  # of an entry's flag bits
_LEGACY = ("serialized_state_dict.pt", "serialized_constants.pt", "serialized_exported_program.json", "data.pkl")

_FORMULA_TOKEN = re.compile(r"'[suz]\d+'|[A-Za-z_]\w*|\d+|//|[-+*/%(),=\s]|[<>!]=?")
_FORMULA_NAME = re.compile(
    r"[suz]\d+|Max|Min|FloorDiv|CeilDiv|CleanDiv|Mod|PythonMod|ModularIndexing|IntTrueDiv|FloatTrueDiv|Eq|Ne|Gt|Ge"
    r"|Lt|Le|Symbol|Integer|Rational|Add|Mul|Pow|positive|nonnegative|integer|TruncToInt|CeilToInt|FloorToInt"
    r"|ToFloat|PowByNatural|True|False|int_oo|oo"
)
_TARGET = re.compile(r"torch\.ops\.aten\.\w+\.\w+|_operator\.\w+|math\.\w+|torch\.sym_\w+")
_TREES = ("builtins.list", "builtins.tuple", "builtins.dict", "collections.OrderedDict")
_FREE_TARGETS = frozenset({"torch.sym_int", "torch.sym_float", "torch.sym_max", "torch.sym_min", "torch.sym_not"})


def clean_copy(source: Path | BinaryIO, target: Path | BinaryIO) -> int:
    """Check the archive `source` and write what is safe of it to `target`; returns the bytes of its tensors.

    Raises `ModelImportError` (missing, no archive, damaged, too large), `UnsafeArchiveError` naming the payload, or
    `UnsupportedOperatorError` naming the call target.
    """
    with _reading(source) as file:
        begun = file.read(len(_MAGIC)) == _MAGIC
        try:
            with zipfile.ZipFile(file) as archive:
                return _copy(archive, target)
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RecursionError) as error:
            if not begun:
                raise ModelImportError("the .pt2 file is no zip archive: save it with torch.export.save") from error
            raise ModelImportError("the .pt2 file is damaged: copy it whole, or export it again") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            problem = f"the .pt2 file is malformed ({type(error).__name__}): export it again"
            raise ModelImportError(problem) from error


@contextmanager
def _reading(source: Path | BinaryIO) -> Iterator[BinaryIO]:
    if not isinstance(source, Path):
        yield source
        return
    try:
        file = source.open("rb")
    except OSError as error:
        raise ModelImportError(f"cannot read the .pt2 file ({error.strerror}): check that it is there") from error
    with file:
        yield file


def _copy(archive: zipfile.ZipFile, target: Path | BinaryIO) -> int:
    entries = _entries(archive)
    if _GRAPH not in entries:
        _refuse_legacy(entries)
        raise ModelImportError(f"the .pt2 file has no {_GRAPH}: save one program with torch.export.save")
    _refuse_unknown(entries)
    configs = {name: _json(archive, entries, name) for name in _CONFIGS}
    for name, config in configs.items():
        _check_config(name, config, entries)
    graph = _clean_graph(_json(archive, entries, _GRAPH))
    root = entries[_GRAPH].filename[: -len(_GRAPH)]
    total = 0
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as out:
        out.writestr(root + _GRAPH, json.dumps(graph))
        out.writestr(root + _SAMPLE, b"")
        for name, info in entries.items():
            if name in _MARKERS or name in _CONFIGS or _PAYLOAD.fullmatch(name):
                out.writestr(root + name, archive.read(info))
                total += info.file_size
    return total


def _entries(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    infos = archive.infolist()
    if len(infos) > MAX_ENTRIES or sum(info.file_size for info in infos) > MAX_TOTAL_BYTES:
        raise ModelImportError("the .pt2 file has too many entries or is too large")
    roots = {info.filename.split("/", 1)[0] for info in infos if "/" in info.filename}
    nested = len(roots) == 1 and all("/" in info.filename for info in infos)
    entries: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        name = info.filename.split("/", 1)[1] if nested else info.filename
        if info.flag_bits & _ENCRYPTED or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ModelImportError(f"entry {name!r:.80} of the .pt2 file is encrypted, or compressed in a rare way")
        if info.compress_type != zipfile.ZIP_STORED and info.file_size > 100 * max(info.compress_size, 1):
            raise ModelImportError(f"entry {name!r:.80} of the .pt2 file is compressed like a zip bomb")
        if name in entries:
            raise ModelImportError(f"the .pt2 file has entry {name!r:.80} twice")
        entries[name] = info
    return entries


def _refuse_legacy(entries: dict[str, zipfile.ZipInfo]) -> None:
    for name in entries:
        if name.rsplit("/", 1)[-1] in _LEGACY:
            raise UnsafeArchiveError(f"the .pt2 file is of an old form that is pickled ({name:.80}): export it again")


def _refuse_unknown(entries: dict[str, zipfile.ZipInfo]) -> None:
    for name in entries:
        known = name in _MARKERS or name in _CONFIGS or name in (_GRAPH, _SAMPLE) or _PAYLOAD.fullmatch(name)
        if known or name.endswith("/") or name.startswith("extra/"):
            continue
        raise UnsafeArchiveError(
            f"the .pt2 file has the payload {name!r:.100}, which is pickled or compiled code: export the model"
            " without custom objects"
        )


def _json(archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo], name: str) -> Any:
    if name not in entries or entries[name].file_size > MAX_JSON_BYTES:
        raise ModelImportError(f"the .pt2 file has no {name}, or one that is too large")
    return json.loads(archive.read(entries[name]))


def _check_config(name: str, config: Any, entries: dict[str, zipfile.ZipInfo]) -> None:
    folder = name.rsplit("/", 1)[0]
    for tensor, payload in config["config"].items():
        path = f"{folder}/{payload['path_name']}"
        if payload["use_pickle"] is not False:
            raise UnsafeArchiveError(f"tensor {tensor!r:.100} in the .pt2 file is pickled: export plain tensors")
        if not _PAYLOAD.fullmatch(path) or path not in entries:
            raise UnsafeArchiveError(
                f"tensor {tensor!r:.100} in the .pt2 file lies in {path!r:.100}, which is no raw one"
            )


def _clean_graph(graph: Any) -> Any:
    """The graph with only what import needs; everything that torch would evaluate is checked."""
    graph["guards_code"] = []
    _visit(graph)
    return graph


def _visit(value: Any) -> None:
    if isinstance(value, list):
        for item in value:
            _visit(item)
    if not isinstance(value, dict):
        return
    if isinstance(value.get("metadata"), dict) and "target" in value:
        value["metadata"] = {k: v for k, v in value["metadata"].items() if k == "nn_module_stack"}
    for key, item in value.items():
        if key == "target" and isinstance(item, str):
            _check_target(item)
        elif key == "expr_str":
            _check_formula(item)
        elif key in ("in_spec", "out_spec") and isinstance(item, str) and item:
            _check_tree(json.loads(item))
        elif key == "range_constraints":
            for symbol in item:
                _check_formula(symbol)
        elif key in ("as_graph", "as_custom_obj", "as_operator") and item is not None:
            raise UnsupportedOperatorError(
                f"the .pt2 file uses {key.removeprefix('as_')} arguments, which stages do not"
            )
        _visit(item)


def _check_target(target: str) -> None:
    if not _TARGET.fullmatch(target) or (target.startswith("torch.sym_") and target not in _FREE_TARGETS):
        raise UnsupportedOperatorError(f"operator {target!r:.120} in the .pt2 file is not one that stages run")


def _check_formula(formula: Any) -> None:
    rest = formula if isinstance(formula, str) and len(formula) <= 1000 else "?"
    while rest:
        token = _FORMULA_TOKEN.match(rest)
        if token is None or (token[0][0].isalpha() and not _FORMULA_NAME.fullmatch(token[0])) or token[0][0] == "_":
            raise UnsafeArchiveError(f"the size formula {formula!r:.100} in the .pt2 file is no arithmetic on sizes")
        rest = rest[token.end() :]


def _check_tree(tree: Any) -> None:
    spec = tree[1] if isinstance(tree, list) and len(tree) == 2 else None
    pending = [spec]
    while pending:
        node = pending.pop()
        if not isinstance(node, dict) or (node.get("type") is not None and node["type"] not in _TREES):
            kind = node.get("type") if isinstance(node, dict) else None
            raise UnsafeArchiveError(f"the .pt2 file has inputs or outputs of type {kind!r:.80}: use dicts and tuples")
        pending += node.get("children_spec") or []
