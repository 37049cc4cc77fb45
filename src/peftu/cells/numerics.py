"""Which code made a number: a cell of other code counts as not run."""

import hashlib
import inspect
from functools import cache
from pathlib import Path

# Rooms of peftu that no fitted or scored number depends on.
BESIDE = ("cli", "doctor.py", "experiment.py", "execute", "executors", "front.py", "judge", "report", "run.py", "store",
          "serving", "metrics", "results.py", "stats.py", "testing", "tasks", "importer", "readers",
          "labelling.py")  # fmt: skip


@cache
def numerics() -> str:
    """Returns 'sha256:…' over the code of peftu that fits and scores."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        place = path.relative_to(root)
        if not set(place.parts) & set(BESIDE):
            digest.update(f"{place.as_posix()}\0".encode() + path.read_bytes())
    return f"sha256:{digest.hexdigest()}"


def code_of(method: object) -> str | None:
    """Returns 'sha256:…' over the file that a method's class stands in; '' for one of peftu's own.

    None: it stands in no file, as in a notebook, so that nobody can tell whether it has changed.
    """
    kind = type(method)
    if kind.__module__.partition(".")[0] == "peftu":
        return ""
    try:
        path = Path(inspect.getfile(kind))
        return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    except (OSError, TypeError):
        return None
