"""What a run made is never emptied without being asked, and what is not whole is never read as whole."""

import hashlib
import shlex
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from terminal import TASK, Said, peftu, refused

from peftu.execute import folder as running
from peftu.fitted import training
from peftu.results import RunRecord, load_run

torch.set_num_threads(1)

OVER = ("--if-exists", "overwrite")
QUICK = ("--base", "./llama", "--raw", "raw", "--users", 2, "--epochs", 1, "--region", "depth=1,span=last")


def run(*flags: object) -> Said:
    return peftu("run", TASK, *QUICK, *flags)


def content(folder: Path) -> dict[str, str]:
    """Returns the sha256 of every file in a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def finished(place: Path) -> Path:
    """A finished run with stored modules, and a file of predictions."""
    lines = pl.DataFrame({"user": ["a", "a"], "item": ["1", "2"], "target": ["x", "y"], "output": ["x", "x"]})
    lines.write_csv(place / "mine.csv")
    assert run("--method", "lora[rank=1]", "--out", "finished").code == 0
    return place / "finished"


def test_a_finished_run_is_not_touched_without_being_asked(finished: Path, place: Path) -> None:
    before = content(finished)
    refused(run("--method", "user-majority", "--out", "finished"), "finished: holds a finished run — it is another one")
    strict = ("--method", "lora[rank=1]", "--out", "finished", "--if-exists", "error")
    refused(run(*strict), "finished: holds a finished run — pass --if-exists overwrite to put this one in its place")
    said = peftu("compare", TASK, "--methods", "user-majority", *QUICK, "--out", "finished")
    refused(said, "finished: holds a finished run — it is another one; pass --if-exists overwrite")
    again = run("--method", "lora[rank=1]", "--out", "finished")
    assert (again.code, "nothing is left to do" in again.err) == (0, True)
    refused(run("--method", "lora[rank=99]", "--out", "finished", *OVER), "rank 99 is above")
    refused(run("--method", "lora", "--out", "finished", *OVER, "--min-items", 999), "no user has 999 items")
    assert content(finished) == before


def test_an_old_run_that_is_overwritten_goes_as_a_whole(finished: Path, place: Path) -> None:
    assert run("--method", "lora[rank=1]", "--out", "twice").code == 0
    assert run("--method", "user-majority", "--out", "twice", *OVER).code == 0
    assert not (place / "twice" / "modules").exists()
    assert [m.method for m in load_run(place / "twice").record.methods] == ["user-majority"]


def test_modules_without_a_record_are_not_emptied_either(finished: Path, place: Path) -> None:
    assert run("--method", "lora[rank=1]", "--out", "halved").code == 0
    (place / "halved" / "run.json").unlink()
    before = content(place / "halved")
    refused(run("--method", "user-majority", "--out", "halved"), "holds modules of a run that did not finish — it is")
    assert content(place / "halved") == before
    assert run("--method", "user-majority", "--out", "halved", *OVER).code == 0


def test_without_out_the_same_run_goes_on_and_another_takes_the_next_free_folder(place: Path) -> None:
    made = [run("--method", "user-majority", "--json").json["run"] for _ in range(2)]
    assert made[0] == made[1]
    (place / made[0] / "run.json").write_text(
        (place / made[0] / "run.json").read_text().replace('"name": "', '"name": "0')
    )
    assert run("--method", "user-majority", "--json").json["run"] == f"{made[0]}-2"
    assert run("--method", "user-majority", *OVER, "--json").json["run"] == made[0]
    assert load_run(place / made[0])


def test_an_interrupted_run_leaves_what_was_there_and_is_never_read_as_whole(
    finished: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, plain = [], training.train

    def interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return plain(*arguments)

    before = content(finished)
    flags = ("--method", "lora[rank=1]", "--seeds", 2)
    with monkeypatch.context() as patch:
        patch.setattr(training, "train", interrupted)
        said = run(*flags, "--out", "stopped", "--json")
        again = run(*flags, "--out", "finished", *OVER)
    for stopped in (said, again):
        assert (stopped.code, stopped.out) == (130, "")
        assert "interrupted: what was filled is kept — the same command goes on with it" in stopped.err
        assert "Traceback" not in stopped.err
    assert content(finished) == before
    for command in (("report", "stopped", "-o", "r.html"), ("predict", "stopped", "--user", "user-0", "--text", "x")):
        refused(peftu(*command), "did not finish")
    assert not (place / "r.html").exists()
    assert run(*flags, "--out", "stopped").code == 0
    assert load_run(place / "stopped")
    assert len(calls) == 3  # the first seed's was kept, the second was tried twice in vain


def test_two_runs_into_one_folder_are_one_and_a_refusal(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = running.judge

    def meanwhile(*arguments: Any) -> Any:
        monkeypatch.setattr(running, "judge", judge)
        refused(run("--method", "lora[rank=1]", "--out", "raced"), "raced: another run is at work in it — wait for it")
        return judge(*arguments)

    monkeypatch.setattr(running, "judge", meanwhile)
    assert run("--method", "user-majority", "--out", "raced").code == 0
    assert load_run(place / "raced").predictions()["method"].unique().to_list() == ["user-majority"]


def test_boards_and_scores_are_kept_too(finished: Path, place: Path) -> None:
    commands = {
        "scores/mine": ("score", "mine.csv", "--labels", "x,y"),
        "leaderboard": ("leaderboard", "finished"),
    }
    for default, command in commands.items():
        made = [peftu(*command, "--json").json["run"] for _ in range(2)]
        assert made == [default, f"{default}-2"]
        before = content(place / default)
        refused(peftu(*command, "--out", default), f"{default}: holds a finished run — pass --replace")
        assert content(place / default) == before
        assert peftu(*command, "--out", default, "--replace", "--json").json["run"] == default
    for run_folder in ("leaderboard", "leaderboard/run.json"):
        said = peftu("leaderboard", "finished", run_folder, "--out", "leaderboard", "--replace")
        refused(said, "leaderboard: is one of the runs, and would be replaced")


def test_a_report_takes_the_place_of_nothing_but_a_report(finished: Path, place: Path) -> None:
    (place / "diary.txt").write_text("dear diary")
    before = content(finished)
    for out in ("finished/run.json", "finished/predictions.parquet", "diary.txt"):
        refused(peftu("report", "finished", "-o", out), f"{out}: is there already and is no report — pass another")
    assert content(finished) == before
    for _ in range(2):
        assert peftu("report", "finished", "-o", "drawn.html").code == 0


# --- folders that no run made ----------------------------------------------------------------------------------------


def test_somebody_s_folder_of_modules_is_not_emptied(place: Path) -> None:
    """A folder that merely has a name of ours in it is not a run."""
    (place / "project" / "modules").mkdir(parents=True)
    (place / "project" / "modules" / "precious.py").write_text("x = 1\n")
    for more in ((), OVER):
        refused(run("--method", "user-majority", "--out", "project", *more), "which no run made")
    assert (place / "project" / "modules" / "precious.py").exists()


def test_left_overs_of_a_killed_write_do_not_block_a_run(place: Path) -> None:
    (place / "killed").mkdir()
    (place / "killed" / ".run.json.123.tmp").write_text("{")
    said = run("--method", "user-majority", "--out", "killed")
    assert said.code == 0, said.err
    assert not (place / "killed" / ".run.json.123.tmp").exists()


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_brackets_and_stars_in_a_path_are_no_pattern(place: Path, suffix: str) -> None:
    rows = [
        {"user": f"u{n % 4}", "item": f"i{n // 4}", "text": f"text {n // 4}", "label": "ab"[n % 2]} for n in range(80)
    ]
    frame = pl.DataFrame(rows)
    write = {"csv": pl.DataFrame.write_csv, "jsonl": pl.DataFrame.write_ndjson, "parquet": pl.DataFrame.write_parquet}
    for name, part in (("[rows]*", frame), ("[rows] and more", frame.reverse())):
        with (place / f"{name}.{suffix}").open("wb") as file:
            write[suffix](part.rename({"label": "target"}).with_columns(output="target"), file)
    scored = peftu("score", f"[rows]*.{suffix}", "--labels", "a,b", "--out", f"[{suffix}]*", "--json")
    assert (scored.code, scored.err) == (0, "")
    assert scored.json["methods"][0]["scored"] == 80
    assert peftu("report", f"[{suffix}]*", "-o", "of a pattern.html").code == 0
    read = peftu("data", "import", f"[rows]*.{suffix}", "--label", "target", "--name", f"rows-{suffix}", "--json")
    assert read.code == 0, read.err
    assert read.json["annotations"] == 80


# --- the command that made it ----------------------------------------------------------------------------------------


def test_the_command_in_the_record_is_the_one_that_was_given(finished: Path, place: Path) -> None:
    out = 'it\'s a "place" [of] $HOME; `ümläut` *'
    words = ("run", TASK, *QUICK, "--method", "lora[rank=1,targets=q+v]@./llama", "--out", out, "-s", "seeds=[0]")
    assert peftu(*words).code == 0
    command = load_run(place / out).record.command
    assert command is not None
    assert shlex.split(command) == ["peftu", *map(str, words)]
    assert load_run(place / out).predictions()["method"].unique().to_list() == ["lora[rank=1,targets=q+v]"]
    page = (place / out / "report.html").read_text()
    assert "&#39;lora[rank=1,targets=q+v]@./llama&#39;" in page
    score = ("score", "mine.csv", "--labels", "x,y", "--name", "two words", "--out", "worded")
    assert peftu(*score).code == 0
    scored = RunRecord.read(place / "worded").command
    assert scored is not None
    assert shlex.split(scored) == ["peftu", *score]
