"""Charts are drawn by native code, which may break off; so it runs in a process of its own, one for a whole report."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from peftu.outside import shown
from peftu.report.blocks import DrawingError

_DRAWER = Path(__file__).with_name("drawer.py")
_open: list["_Drawer"] = []  # the one of the block that is open, if any


class _Drawer:
    """The process, started when the first chart comes."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def draw(self, spec: dict[str, Any]) -> str:
        if self._process is None:
            self._process = _start()
        process = self._process
        assert process.stdin is not None  # noqa: S101
        assert process.stdout is not None  # noqa: S101
        try:
            process.stdin.write(json.dumps(_shown(spec)) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:  # it is gone
            line = ""
        if not line:
            code = process.wait()
            self.close()
            raise DrawingError(f"the report could not be drawn: what draws its charts broke off (code {code})")
        answer: dict[str, str] = json.loads(line)
        if "error" in answer:
            raise DrawingError(f"the report could not be drawn: {' '.join(answer['error'].split())[:200]}")
        return answer["svg"]

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@contextmanager
def drawing() -> Iterator[None]:
    """Charts made within the block are drawn by one process, which ends with the outermost block."""
    if _open:
        yield
        return
    drawer = _Drawer()
    _open.append(drawer)
    try:
        yield
    finally:
        _open.remove(drawer)
        drawer.close()


def draw(spec: dict[str, Any]) -> str:
    """Returns a Vega-Lite chart as SVG; characters that would be obeyed, or break the drawing off, are written out.

    Raises:
        DrawingError: what draws it broke off, or refused it.
        ImportError: vl-convert-python is not installed.
    """
    with drawing():
        return _open[0].draw(spec)


def _start() -> subprocess.Popen[str]:
    if find_spec("vl_convert") is None:
        raise ImportError("vl_convert")
    return subprocess.Popen(
        [sys.executable, "-P", str(_DRAWER)],  # -P: its folder holds modules with common names
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
    )


def _shown(value: Any) -> Any:
    if isinstance(value, dict):
        return {shown(key): _shown(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_shown(inner) for inner in value]
    return shown(value) if isinstance(value, str) else value
