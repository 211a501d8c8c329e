"""structlog, configured once per process: JSON in containers, colour on a terminal."""

from __future__ import annotations

import importlib
import logging
import sys
from typing import TYPE_CHECKING, Any, Literal, TextIO

_RICH = "rich"


def _import_structlog() -> Any:
    """structlog without rich, which it would draw tracebacks with: 5 MB in every service, for terminals only."""
    if _RICH in sys.modules:
        return importlib.import_module("structlog")
    sys.modules[_RICH] = None  # type: ignore[assignment]  # an import of it fails, which structlog allows for
    try:
        return importlib.import_module("structlog")
    finally:
        del sys.modules[_RICH]


if TYPE_CHECKING:
    import structlog
else:
    structlog = _import_structlog()

Format = Literal["auto", "json", "console"]
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
Logger = structlog.typing.FilteringBoundLogger


def configure(
    *, service: str, level: str = "info", style: Format = "auto", stream: TextIO | None = None, **bound: Any
) -> Logger:
    """Set up logging to `stream` (stderr) and return a logger with `service` and `bound` context."""
    out = stream if stream is not None else sys.stderr
    console = style == "console" or (style == "auto" and out.isatty())
    renderer: Any = structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer(sort_keys=True)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if console else [structlog.processors.format_exc_info]),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    return get(service=service, **bound)


def get(**bound: Any) -> Logger:
    """A logger with bound context."""
    logger: Logger = structlog.get_logger(**bound)
    return logger
