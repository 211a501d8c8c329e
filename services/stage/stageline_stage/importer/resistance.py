"""Why torch gave a model up, in one sentence with the operator and its place, in lieu of torch's own dump."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator

from torch import nn
from torch._dynamo.exc import UserError, UserErrorType
from torch._subclasses.fake_tensor import UnsupportedOperatorException
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from stageline.errors import ModelError, ModelImportError, UnsupportedOperatorError
from stageline_stage.importer.places import Spot, of_error, of_stack

MAX_REASON = 400
GUARDS = "torch.fx.experimental.symbolic_shapes"
"""Where torch logs, at level info, each condition on sizes that it takes for granted from there on."""

_log = logging.getLogger("stageline.importer")
_FIXES = re.compile(r"Suggested fixes:\s*(.+?)\s*(?:\n\s*\n|$)", re.DOTALL)
_FOLDERS = re.compile(r"(?<![\w.])/(?:[^\s/'\":]+/)+(?=[^\s/'\":]+\.py\b)")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without torch's warnings, and without what it writes to stderr beside its exceptions: that goes to a debug log.

    With TORCH_LOGS set the user wants to see it, and does.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if os.environ.get("TORCH_LOGS"):
            yield
            return
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said), _kept_back():
                yield
        finally:
            if said.getvalue():
                _log.debug("torch wrote: %s", said.getvalue())


@contextlib.contextmanager
def _kept_back() -> Iterator[None]:
    """What torch logs goes to our debug log only."""

    def take(record: logging.LogRecord) -> bool:
        _log.debug("torch logged: %s", record.getMessage())
        return False

    loggers = [one for one in logging.root.manager.loggerDict.values() if isinstance(one, logging.Logger)]
    found = [handler for one in loggers if one.name.split(".")[0] == "torch" for handler in one.handlers]
    handlers = [handler for handler in found if not isinstance(handler, _Watcher)]
    for handler in handlers:
        handler.addFilter(take)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(take)


def explain(error: Exception, model: nn.Module, export: Callable[[], object]) -> ModelError:
    """The error for the user; `export` does what failed once more, for what only torch's log tells."""
    spot = of_error(error, model)
    place = f" at {spot}" if spot.line else ""
    code = f"`{spot.code}`" if spot.code else "the model"
    if isinstance(error, UnsupportedOperatorException):
        return UnsupportedOperatorError(f"operator {error.func} cannot be exported (called in {spot or 'the model'})")
    if isinstance(error, GuardOnDataDependentSymNode):
        return ModelImportError(
            f"the model cannot be exported{place}: {code} needs the values of a tensor ({spot.operator or 'item'}). "
            "Control flow and sizes may depend on the sizes of inputs only: compute both branches, say, and choose "
            "with torch.where"
        )
    if isinstance(error, UserError) and error.error_type is UserErrorType.CONSTRAINT_VIOLATION:
        return ModelImportError(_fixed_size(error, _guarded(export, model)))
    called = f" ({code} calls {spot.operator})" if spot.operator and spot.code else ""
    reason = " ".join(str(error).split("\n\n")[0].split())[:MAX_REASON].rstrip(". ")
    return ModelImportError(
        f"the model cannot be exported{place}{called}: {type(error).__name__}: {_FOLDERS.sub('', reason)}"
    )


def _fixed_size(error: Exception, spot: Spot) -> str:
    found = _FIXES.search(str(error))
    wanted = " ".join(found[1].split()) if found else "fewer sizes"
    place = f" at {spot}" if spot.line else ""
    code = f" (`{spot.code}`)" if spot.code else ""
    return (
        f"the model cannot be exported with dynamic sizes: its code{place}{code} is only right for {wanted}. "
        "Write it for any size, or return a Signature with the sizes that it takes"
    )


def _guarded(export: Callable[[], object], model: nn.Module) -> Spot:
    """Where the model's code made torch take a size for granted: at an equation, else at the last condition."""
    watcher = _Watcher(model)
    log = logging.getLogger(GUARDS)
    level = log.level
    log.addHandler(watcher)
    log.setLevel(logging.INFO)
    try:
        with contextlib.suppress(Exception):  # it fails as before
            export()
    finally:
        log.setLevel(level)
        log.removeHandler(watcher)
    return watcher.found


class _Watcher(logging.Handler):
    """Looks where the model's code is when torch logs a condition."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(logging.INFO)
        self._model = model
        self._is_equation = False
        self.found = Spot()

    def emit(self, record: logging.LogRecord) -> None:
        """Called by `logging`, below the code that made torch log."""
        text = record.getMessage()
        if "[guard added]" not in text or self._is_equation:
            return
        spot = of_stack(sys._getframe(1), self._model)
        if spot.line:
            self.found, self._is_equation = spot, "Eq(" in text
