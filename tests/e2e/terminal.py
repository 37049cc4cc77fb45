"""The command line as a function, and what it must say to a bad input."""

import contextlib
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from peftu.cli import main

SRC = Path(__file__).parents[2] / "src"
TASK, MANY, FREE = "synthetic-single", "synthetic-multi", "synthetic-text"


@dataclass
class Said:
    """What a command answered."""

    code: int
    out: str
    err: str
    json: Any = field(init=False, default=None)

    def __post_init__(self) -> None:
        with contextlib.suppress(ValueError):
            self.json = json.loads(self.out)


def peftu(*arguments: object) -> Said:
    """Returns what the command line answers, run in this process."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["peftu", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
    return Said(int(end.value.code or 0), out.getvalue(), err.getvalue())


def refused(said: Said, complaint: str) -> None:
    """Checks for exit code 2 and one clear line."""
    assert said.code == 2, said.err
    assert said.out == ""
    lines = said.err.splitlines()
    assert len(lines) == 1, said.err
    assert lines[0].startswith("error: ")
    assert complaint in lines[0]


def python(code: str, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:peftu", "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=cwd,
    )
