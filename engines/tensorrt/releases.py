"""The Python packages of TensorRT and TensorRT-RTX, as builders and runtimes of plans both open them.

What it is: the import that refuses with the remedy, and a logger that keeps errors.
What it knows: that the packages are alike. What it does not know: graphs, plans and GPUs.
"""

from __future__ import annotations

import importlib
import logging
from typing import Any

from allrounder.engines.tensorrt.plan_names import Flavour, parse_version
from allrounder.errors import EngineUnavailable

__all__ = ["error_logger", "imported"]

_log = logging.getLogger("allrounder.tensorrt")


def imported(flavour: Flavour) -> Any:
    """Returns the package of a library.

    Raises:
        EngineUnavailable: It is missing, or too old.
    """
    try:
        module = importlib.import_module(flavour.module)
    except ImportError as error:
        raise EngineUnavailable(
            f"{flavour.name} cannot be imported",
            got=error,
            remedy=f"pip install {flavour.module} (or allrounder[{flavour.backend}])",
        ) from error
    parse_version(module.__version__, flavour)
    return module


def error_logger(module: Any, errors: list[str]) -> Any:
    """Returns a logger that adds errors to ``errors``, because the library's calls return no reason."""

    class Logger(module.ILogger):
        def __init__(self) -> None:
            module.ILogger.__init__(self)  # pybind11 wants it called by name

        def log(self, severity: Any, msg: str) -> None:
            if severity in (module.ILogger.Severity.INTERNAL_ERROR, module.ILogger.Severity.ERROR):
                errors.append(msg)
            elif severity == module.ILogger.Severity.WARNING:
                _log.debug("%s", msg)

    return Logger()
