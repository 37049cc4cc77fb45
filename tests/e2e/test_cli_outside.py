"""Odd files, arguments, names and terminals: one line, nothing obeyed, and no finished work lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from terminal import SRC, TASK, peftu, refused

from peftu.report.charts import drawing
from peftu.results import load_run

pytestmark = pytest.mark.pictures
NESTED = "[" * 100_000 + "]" * 100_000
ESCAPES = "\x1b[31mred \x9b1m\u202edcba [yes] :smile:"
SEEN = r"\x1b[31mred \x9b1m\u202edcba [yes] :smile:"


Names = tuple[str, ...]


def rows(users: Names = ("u1", "u2"), labels: Names = ("a", "b"), **more: str) -> list[dict[str, str]]:
    return [
        {"user": user, "item": f"i{n}", "target": labels[n % 2], "output": labels[n % 2], **more}
        for user in users
        for n in range(6)
    ]


def as_lines(path: Path, table: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in table))
    return path


IN_TURN = """
import json, os, sys
from peftu.cli import main
for command in json.loads(sys.argv[1]):
    sys.argv = ["peftu", *command]
    try:
        main()
    except SystemExit as end:
        for stream, mark in ((sys.stdout, f"\\0{end.code or 0}\\0"), (sys.stderr, "\\0")):
            stream.flush()
            os.write(stream.fileno(), mark.encode())
"""


def separate(*commands: tuple[str, ...], **environment: str) -> "list[subprocess.CompletedProcess[bytes]]":
    """Runs commands one after the other in a process of their own, whose output is bytes."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "PYTHON"))}
    done = subprocess.run(
        [sys.executable, "-c", IN_TURN, json.dumps(commands)],
        capture_output=True,
        check=True,
        env={**kept, "PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1", **environment},
    )
    said = done.stdout.split(b"\0")
    whole = zip(commands, said[::2], said[1::2], done.stderr.split(b"\0"), strict=False)
    return [subprocess.CompletedProcess(command, int(code), out, err) for command, out, code, err in whole]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("target", "ye\x00s", "row 1: target holds a control character"),
        ("output", "a\nb", "row 1: predicted holds a control character"),
        ("user", "\x1b[31m", "row 1: user holds a control character"),
        ("item", "i\x85", "row 1: item holds a control character"),
        ("method", "m\x07", "row 1: method holds a control character"),
        ("method", "\uffff", "row 1: method holds a control character"),
        ("user", "\ud800", "row 1: holds half a character (a lone surrogate)"),
        ("text", "\ud800", "row 1: holds half a character (a lone surrogate)"),
    ],
)
def test_scored_names_are_names(tmp_path: Path, field: str, value: str, said: str) -> None:
    refused(peftu("score", as_lines(tmp_path / "p.jsonl", rows(**{field: value})), "--out", tmp_path / "s"), said)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("user", "\ud800", "row 1: holds half a character (a lone surrogate)"),
        ("text", "\udc00", "row 1: holds half a character (a lone surrogate)"),
        ("label", "\ud801", "row 1: holds half a character (a lone surrogate)"),
        ("label", "y\x1b", "row 1: label holds a control character"),
        ("label", "y\nes", "row 1: label holds a control character"),
        ("user", "\x00", "row 1: user holds a control character"),
        ("user", "NESTED", "row 1: nested more than 100 levels deep"),
    ],
)
@pytest.mark.parametrize("form", ["jsonl", "json"])
def test_imported_names_are_names(tmp_path: Path, field: str, value: str, said: str, form: str) -> None:
    table = [{"user": f"u{n}", "text": f"t{n}", "label": "xy"[n % 2]} for n in range(4)]
    table[0][field] = value
    path = tmp_path / f"mine.{form}"
    text = json.dumps(table) if form == "json" else "".join(json.dumps(row) + "\n" for row in table)
    path.write_text(text.replace('"NESTED"', NESTED))
    done = peftu("data", "import", path)
    assert (done.code, done.out) == (2, "")
    last = done.err.splitlines()[-1]
    assert last.startswith("error: ")
    assert said.removeprefix("row 1: " if "nested" in said and form == "json" else "") in last
    assert "Traceback" not in done.err


def test_names_in_two_unicode_forms_are_told(tmp_path: Path) -> None:
    names = [name for plain in ("Ren\u00e9", "Zo\u00eb", "J\u00fcrgen") for name in (plain, _apart(plain))]
    path = as_lines(tmp_path / "p.jsonl", rows(tuple(names), ("n\u00e9", _apart("n\u00e9"))))
    said = peftu("score", path, "--out", tmp_path / "s", "--json")
    assert said.code == 0, said.err
    assert said.json["users"] == 6
    told = [warning.split(":")[0] for warning in said.json["warnings"]]
    accent = _apart("n\u00e9")
    alike = f"labels '{accent}' and 'n\u00e9' look alike and count apart"
    assert [warning.split(" — ")[0] for warning in told] == [alike, "6 user keys look like 3 and count apart"]
    pl.DataFrame(
        [{"user": name, "text": f"{n} {accent}", "label": "xy"[n % 2]} for n, name in enumerate(names * 2)]
    ).write_csv(tmp_path / "mine.csv")
    said = peftu("data", "import", tmp_path / "mine.csv", "--json")
    assert said.json["users"] == 6
    assert [note for note in said.json["notes"] if "Unicode" in note] == [
        "6 user keys look like 3 and count apart: they differ in Unicode form only (NFC, NFD) — "
        "normalise the file to join them"
    ]


def _apart(name: str) -> str:
    import unicodedata

    return unicodedata.normalize("NFD", name)


def test_paths_are_no_patterns(tmp_path: Path) -> None:
    """A run is often called after its method, as lora[rank=4]."""
    for suffix in (".csv", ".parquet"):
        path = tmp_path / f"a[b*{suffix}"
        frame = pl.DataFrame(rows())
        frame.write_csv(path) if suffix == ".csv" else frame.write_parquet(path)
        assert peftu("score", path, "--out", tmp_path / f"s[x*{suffix}").code == 0
        assert peftu("leaderboard", tmp_path / f"s[x*{suffix}", "--out", tmp_path / f"l[{suffix}").code == 0
    pl.DataFrame({"user": ["u", "v"], "text": ["a", "b"], "label": ["x", "y"]}).write_parquet(tmp_path / "[i.parquet")
    assert peftu("data", "import", tmp_path / "[i.parquet").code == 0


def test_a_meta_that_is_no_object_is_told(tmp_path: Path) -> None:
    table = [{"user": f"u{n}", "text": f"t{n}", "label": "xy"[n % 2], "meta": "{broken"} for n in range(4)]
    said = peftu("data", "import", as_lines(tmp_path / "mine.jsonl", table), "--json")
    assert "column 'meta' is not used as meta: not every cell is a JSON object" in said.json["notes"]


def test_labels_in_brackets_are_labels(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("user,text,label\nu,a,[yes]\nu,b,[no]\nv,a,[no]\n")
    said = peftu("data", "import", tmp_path / "mine.csv")
    assert said.code == 0, said.err
    assert "[yes]" in said.out
    assert peftu("data", "stats", "mine", "--json").json["annotations"] == 3


def test_a_drawing_that_breaks_off_takes_nothing_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = as_lines(tmp_path / "p.jsonl", rows())
    assert peftu("score", path, "--out", tmp_path / "s").code == 0
    (tmp_path / "drawer.py").write_text("import os; os.abort()")
    monkeypatch.setattr(drawing, "_DRAWER", tmp_path / "drawer.py")
    monkeypatch.setattr(drawing, "_open", [])
    said = peftu("score", path, "--out", tmp_path / "s", "--replace", "--json")
    assert said.code == 0
    assert (said.json["report"], said.json["users"]) == (None, 2)
    assert "broke off" in said.err
    assert "the scores are kept: peftu report" in said.err
    assert not (tmp_path / "s" / "report.html").exists()  # that of before is of other scores
    flags = ("--raw", "raw", "--users", 3, "--out", tmp_path / "run")
    ran = peftu("run", TASK, "--method", "user-majority", *flags, "--json")
    assert ran.code == 0
    assert ran.json["report"] is None
    assert f"the run is kept: peftu report {tmp_path / 'run'}" in ran.err
    assert load_run(tmp_path / "run").record.status == "complete"
    refused(peftu("report", tmp_path / "run", "-o", tmp_path / "r.html"), "the report could not be drawn")


def test_texts_and_names_are_shown_not_obeyed(tmp_path: Path) -> None:
    lines = [{"user": f"u{n % 3}", "text": f"{n} {ESCAPES}", "label": "xy"[n % 2]} for n in range(12)]
    path = as_lines(tmp_path / "mine.jsonl", lines)  # type: ignore[arg-type]
    for said in (
        peftu("data", "import", path, "--instruction", ESCAPES),
        peftu("tasks", "mine"),
        peftu("tasks", "mine", "--json"),
    ):
        assert said.code == 0, said.err
        assert not {"\x1b", "\x9b", "\u202e"} & set(said.out + said.err)
        assert "[yes]" in said.out
        assert ":smile:" in said.out
    assert said.json["instruction"] == ESCAPES
    assert SEEN in peftu("data", "import", tmp_path / ESCAPES).err
    scored = as_lines(tmp_path / "p.jsonl", rows())
    said = peftu("score", scored, "--name", ESCAPES, "--out", tmp_path / "s")
    assert SEEN in said.out
    record = json.loads((tmp_path / "s" / "run.json").read_text())
    record |= {"warnings": [ESCAPES], "command": ESCAPES}
    record["task"]["citation"] = ESCAPES
    (tmp_path / "s" / "run.json").write_text(json.dumps(record))
    assert peftu("report", tmp_path / "s", "-o", tmp_path / "r.html").code == 0
    page = (tmp_path / "r.html").read_text()
    assert r"\x1b[31m" in page.replace("<wbr>", "")
    assert not {"\x1b", "\x9b", "\u202e"} & set(page)


def test_arguments_that_are_no_text_are_named(tmp_path: Path) -> None:
    for arguments, named in (
        (("predict", "run", "--user", "\udcff", "--text", "x"), "--user"),
        (("predict", "run", "--user", "x", "--text=\udcff"), "--text"),
        (("report", "\udcff"), "argument 2"),
    ):
        refused(peftu(*arguments), f"error: {named}: is no text in this terminal's encoding")


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        pytest.param({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, marks=pytest.mark.slow),
    ],
)
def test_a_terminal_without_the_characters_ends_no_run(tmp_path: Path, environment: dict[str, str]) -> None:
    path = as_lines(tmp_path / "p.jsonl", rows(labels=("n\u00e9", "\u4e2d")))
    done, joined, refusal = separate(
        ("score", str(path), "--out", str(tmp_path / "s")),
        ("leaderboard", str(tmp_path / "s"), "--out", str(tmp_path / "l"), "--json"),
        ("report", str(tmp_path / "none")),
        **environment,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert b"p \\xb7" not in done.stdout
    assert b"-----" in done.stdout
    assert joined.returncode == 0, joined.stderr
    assert json.loads(joined.stdout)["users"] == 2
    assert (refusal.returncode, refusal.stderr.count(b"\n")) == (2, 1)
    assert b" - " in refusal.stderr


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({"users": 10**40}, None),
        ({"files": []}, "files: do not list user_scores.parquet"),
        ({"methods": [{}]}, "methods.0.method"),
        ({"task": {}}, "task.name"),
    ],
)
def test_an_edited_record_is_one_line(tmp_path: Path, edit: dict[str, object], said: str | None) -> None:
    assert peftu("score", as_lines(tmp_path / "p.jsonl", rows()), "--out", tmp_path / "s").code == 0
    whole = json.loads((tmp_path / "s" / "run.json").read_text())
    (tmp_path / "s" / "run.json").write_text(json.dumps({**whole, **edit}))
    done = peftu("report", tmp_path / "s", "-o", tmp_path / "r.html")
    if said is None:
        assert done.code == 0, done.err
    else:
        refused(done, said)
