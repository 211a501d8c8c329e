"""Where in the user's model something happens: "inner.1, net.py:12 in forward". No path of this machine is named."""

from __future__ import annotations

import linecache
import re
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any

from torch import fx, nn
from torch._ops import OpOverload

from stageline.errors import ModelError

MAX_CODE = 80
OURS = "/stageline_stage/importer/"
_TRACED = re.compile(r'File "([^"\n]+)", line (\d+), in (\S+)')
Frames = Iterator[tuple[FrameType, int]]
"""Frames with their lines, the outermost first."""


@dataclass(frozen=True)
class Spot:
    """A submodule's path, a line as "net.py:12 in forward", its text, and what it called of torch; "" where unknown."""

    module: str = ""
    line: str = ""
    code: str = ""
    operator: str = ""

    def __str__(self) -> str:
        return ", ".join(part for part in (self.module, self.line) if part)


def of_call(node: fx.Node) -> str:
    """The place of a call in a traced graph; "the model" where nothing is known."""
    traced = _TRACED.findall(str(node.meta.get("stack_trace") or ""))
    lines = [_line(path, int(number), name) for path, number, name in traced if is_users(path)]
    return str(Spot(module_path(node), lines[-1] if lines else "")) or "the model"


@contextmanager
def telling(node: fx.Node) -> Iterator[None]:
    """What is wrong with a call is said with its operator's place in the model."""
    try:
        yield
    except ModelError as error:
        raise type(error)(f"{error.message} (called in {of_call(node)})") from error


def module_path(node: fx.Node) -> str:
    """The path of the submodule that made the call, e.g. "encoder.layer.3.attention"; "" at the root."""
    stack = node.meta.get("nn_module_stack") or {}
    entries = [entry[0] for entry in stack.values() if isinstance(entry, tuple) and entry]
    path = str(entries[-1]) if entries else ""
    return "" if path.startswith("_empty_nn_module_stack") else shown(path)


def shown(path: str) -> str:
    """The path of a submodule as users know it: without the wrapper that gives a model names for its inputs."""
    return path.removeprefix("model.") if path != "model" else ""


def of_error(error: BaseException, model: nn.Module | None = None) -> Spot:
    """Where in the model's own code an exception came from."""
    return _innermost(_traced(error.__traceback__), model)


def of_stack(frame: FrameType | None, model: nn.Module | None = None) -> Spot:
    """Where in the model's own code `frame` was called from; nowhere outside of what the importer called."""
    frames = []
    while frame is not None and OURS not in frame.f_code.co_filename:
        frames.append((frame, frame.f_lineno))
        frame = frame.f_back
    return _innermost(reversed(frames), model)


def is_users(path: str) -> bool:
    """Whether a file may hold code of a model: neither Python's, nor torch's, nor ours."""
    path = path.replace("\\", "/")
    installed = "/site-packages/" in path or "/dist-packages/" in path
    theirs = "/torch/" in path or OURS in path or path.startswith("<")
    return not theirs and (installed or not path.startswith(f"{sysconfig.get_paths()['stdlib']}/"))


def _traced(trace: TracebackType | None) -> Frames:
    while trace is not None:
        yield trace.tb_frame, trace.tb_lineno
        trace = trace.tb_next


def _innermost(frames: Iterator[tuple[FrameType, int]], model: nn.Module | None) -> Spot:
    names = {id(part): shown(path) for path, part in model.named_modules()} if model is not None else {}
    module, found, operators = "", Spot(), list[Any]()
    for frame, number in frames:
        path = frame.f_code.co_filename
        if is_users(path):
            module = names.get(id(frame.f_locals.get("self")), module)
            code = linecache.getline(path, number).strip()[:MAX_CODE]
            found, operators = Spot(module, _line(path, number, frame.f_code.co_name), code), []
        elif (called := frame.f_locals.get("func")) is not None:
            operators.append(called)
    return Spot(found.module, found.line, found.code, _operator(operators))


def _operator(called: list[Any]) -> str:
    """Of what torch was asked to do, outermost first: the operator, or else the function of torch."""
    overloads = [str(one) for one in called if isinstance(one, OpOverload)]
    return next(iter(overloads), "") or next((str(getattr(one, "__name__", "")) for one in called), "")


def _line(path: str, number: int, name: str) -> str:
    return f"{path.replace(chr(92), '/').rsplit('/', 1)[-1]}:{number} in {name}"
