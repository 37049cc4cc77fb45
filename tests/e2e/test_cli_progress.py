"""How far a run is: on a terminal, in a file, and not at all."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from terminal import SRC, TASK, Said, peftu, refused

from peftu.results import RunRecord

QUICK = (
    *("run", TASK, "--method", "lora[rank=1]", "--base", "./llama", "--raw", "raw", "--users", "2", "--epochs", "1"),
    *("--region", "depth=1,span=last"),
)
CODE = f"""
from peftu.cli import main
from peftu.data.synthetic import SyntheticTask
from peftu.data.task import tasks
tasks.add({TASK!r}, SyntheticTask)
main()
"""


def command(*flags: str) -> list[str]:
    return [sys.executable, "-W", "error::DeprecationWarning:peftu", "-c", CODE, *QUICK, *flags]


def environment(**variables: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1", **variables}


def test_a_file_gets_lines_and_no_control_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    text = quick("--out", "lines", "--cells", "lines-cells").err
    assert text.isprintable() or set(filter(lambda c: not c.isprintable(), text)) == {"\n"}
    assert "1 of 1 cells, " in text
    assert "training" not in text
    assert "━" not in text


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo terminal")
def test_a_terminal_gets_bars_and_a_pipe_json_and_nothing_else(place: Path) -> None:
    screen, stderr = pty.openpty()
    process = subprocess.Popen(
        command("--out", "bars", "--cells", "bars-cells", "--json"),
        stdout=subprocess.PIPE,  # of less than a pipe holds
        stderr=stderr,
        env=environment(TERM="xterm", COLUMNS="80"),
        cwd=place,
    )
    os.close(stderr)
    written = b""
    while True:
        try:
            written += os.read(screen, 4096)
        except OSError:  # the other end is closed
            break
    os.close(screen)
    text = written.decode()
    printed, _ = process.communicate()
    assert process.returncode == 0, text
    said = json.loads(printed)
    assert said["methods"][0]["method"] == "lora[rank=1]"
    assert RunRecord.read(place / "bars").cli_json(Path("bars")) == said
    assert "Made-up tastes: 2 users" in text
    assert "Warning" not in text
    assert "\x1b[" in text
    assert "training lora" in text
    assert "users an hour" in text
    assert "1/1" in text


def quick(*flags: object) -> Said:
    return peftu(*QUICK, *flags)


def test_quiet_says_nothing_but_errors(place: Path) -> None:
    done = quick("--out", "quiet", "--quiet", "--json")
    assert (done.code, done.err) == (0, "")
    assert done.json["report"]
    refused(peftu("run", TASK, "--method", "lora[rank=99]", "--base", "./llama", "--raw", "raw", "--quiet"), "rank 99")
    stopped = quick("--out", "late", "--quiet", "--max-minutes", 0, "--cells", "late-cells")
    assert stopped.code == 75
    assert stopped.err.startswith("out of time: ")
    assert len(stopped.err.splitlines()) == 1


def test_a_tracker_that_cannot_be_used_stops_nothing_half_way(place: Path) -> None:
    refused(quick("--out", "none", "--track", "tensorbord:logs"), "did you mean 'tensorboard'?")
    refused(quick("--out", "none", "--track", "tensorboard"), "is not of the form NAME:FOLDER")
    assert not (place / "none").exists()
