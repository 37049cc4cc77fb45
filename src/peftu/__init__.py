"""One small module per person on a frozen language model: train, judge, keep and ask them together.

Importing this package is cheap (no torch, no polars): what is offered here is loaded when it is first used, and rooms
are imported by name, for example ``from peftu.data.table import UserTable``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from peftu.errors import PeftuError

if TYPE_CHECKING:
    from peftu.data.importer.frame import from_frame
    from peftu.fitted.fitted import Fitted
    from peftu.front import compare, fit, load, load_task
    from peftu.front import open as open
    from peftu.run import Run

__version__ = "0.1.0"
# Without open: an asterisk must not hide the one of Python.
__all__ = ["Fitted", "PeftuError", "Run", "compare", "fit", "from_frame", "load", "load_task"]

_HOMES = {
    "Fitted": "peftu.fitted.fitted",
    "Run": "peftu.run",
    "compare": "peftu.front",
    "fit": "peftu.front",
    "from_frame": "peftu.data.importer.frame",
    "load": "peftu.front",
    "load_task": "peftu.front",
    "open": "peftu.front",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'peftu' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
