"""Files that cannot be a task: one line that names the file, the rows and the mend; nothing is kept."""

from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from peftu.cli.app import app
from peftu.data.importer.importing import ImportOptions, import_file
from peftu.data.readers.source import RowsError
from peftu.data.task import tasks
from peftu.errors import PeftuError

HEAD = "user,text,label\n"


def write(folder: Path, content: str | bytes, name: str = "mine.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refused(path: Path, asked: ImportOptions | None = None) -> PeftuError:
    with pytest.raises(PeftuError) as caught:
        import_file(path, asked)
    assert "\n" not in str(caught.value)
    assert "mine" not in tasks.names()
    assert not list(path.parent.rglob("table-*"))
    return caught.value


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (HEAD + "u,a,x\nu,,y\nu, ,y\nu,c,y\n", ["row 2: text is empty", "row 3: text is empty"]),
        (HEAD + "u,a,x\n,b,y\nu,c,\n", ["row 2: user is empty", "row 3: label is empty"]),
        (
            HEAD + "u,a,x\nv,a,x\nu,a,y\n",
            ["row 3: is by the user and on the text of row 1, with another label — keep one, or pass --item COLUMN"],
        ),
        (
            HEAD + "u,a,x\nu,b\nu,c,y,z\nu,d,y\n",
            ["row 2: 2 cells under 3 columns — add what is missing", "row 3: 4 cells under 3 columns — quote a cell"],
        ),
        (HEAD + "u,a,x\nu,b,y\nu,c\n", ["row 3: label is empty"]),
        (HEAD + "u,a,\nu,b,\n", ["row 1: label is empty", "row 2: label is empty"]),
        (HEAD + '"u","a","x"\nu,"b,y\nu,c,x\n', ["row 2: a quote that opens in line 3 is never closed"]),
        (HEAD + '"u","a","x"\nu,b,"y\nu,c,x\n', ["row 2: a quote that opens in line 3 is never closed"]),
        (HEAD + '"u","a","x"\nu,"b" or c,y\n', ["row 2: a quote closes before its cell ends"]),
        ("user,text,label,time\nu,a,x,1\nu,b,y,soon\n", []),
    ],
)
def test_wrong_rows_are_all_told(tmp_path: Path, content: str, shown: list[str]) -> None:
    path = write(tmp_path, content)
    if not shown:
        import_file(path)  # a time that was found but not asked for
        return
    error = refused(path)
    assert isinstance(error, RowsError)
    assert len(error.shown) == len(shown)
    assert all(line.startswith(said) for line, said in zip(error.shown, shown, strict=True))
    assert str(error).startswith(f"{path}: {shown[0]}")


def test_ten_rows_are_shown_and_all_are_counted(tmp_path: Path) -> None:
    error = refused(write(tmp_path, HEAD + "u,a,x\n" + "u,,y\n" * 500 + "".join(f"u{n},b,z\n" for n in range(50))))
    assert isinstance(error, RowsError)
    assert [line.split(":")[0] for line in error.shown] == [f"row {number}" for number in range(2, 12)]
    assert str(error).endswith("; 499 more rows are wrong")


def test_uneven_rows_are_counted_over_the_whole_file(tmp_path: Path) -> None:
    error = refused(
        write(tmp_path, HEAD + "".join(f"u{n},b{n},{'zy'[n % 2]}{',more' * (n % 40 == 7)}\n" for n in range(1000)))
    )
    assert isinstance(error, RowsError)
    assert [line.split(":")[0] for line in error.shown] == [f"row {number}" for number in range(8, 400, 40)]
    assert str(error).endswith("; 24 more rows are wrong")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no rows"),
        (" \n\n", "holds no rows"),
        (HEAD, "holds no rows"),
        ("user\nu\n", "no delimiter found (tried comma, tab, semicolon, bar, caret, tilde)"),
        ("user,label,note\nu,x,y\n", "cannot tell which column is the text (columns: user, label, note) — pass --text"),
        (
            "a,b\nu,x\n",
            "no column has a usual name — add a first line with names, or pass --user COLUMN --text COLUMN --label",
        ),
        ("u1,good,1\nu1,bad,0\nu2,good,1\n", "its first line looks like data, not like column names"),
        ("user,user,text,label\nu,u,a,x\n", "two columns are called 'user' — rename one"),
        (HEAD + "u,a,x\nu,b,x\n", "column 'label': every row has the label 'x' — a task needs two labels"),
        (
            HEAD + "".join(f"u,a{n},x{n}\n" for n in range(101)),
            "column 'label': 101 different labels in 101 rows — pass",
        ),
        (b"PK\x03\x04rest", "is truncated or damaged"),
        (b"\x1f\x8brest", "is truncated or damaged"),
        (b"Rar!rest", "is a rar archive"),
        (b"PAR1rest", "is truncated or no Parquet file"),
        (
            HEAD.encode() + b"u,\xe9t\xe9,x\nu,\xc3\xa9t\xc3\xa9,y\n",
            "mixed encodings: line 2 is not UTF-8 but 1 others are",
        ),
        (b"\xff\xfeu\x00s", "holds no rows|no delimiter|begins as utf-16"),
        (b"\xef\xbb\xbf" + HEAD.encode() + b"u,\xe9,x\n", "begins as utf-8 but does not go on so"),
    ],
)
def test_files_that_are_no_table(tmp_path: Path, content: str | bytes, said: str) -> None:
    path = write(tmp_path, content)
    error = str(refused(path))
    assert error.startswith(f"{path}: ")
    assert any(part in error for part in said.split("|"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"user": "u"}\nnope\n[1]\n', ["row 2: is not valid JSON", "row 3: is no JSON object"]),
        (
            '{"user": "u", "text": "a", "label": "x"}\n{"user": "u", "text": null, "label": "y"}\n',
            ["row 2: text is empty"],
        ),
    ],
)
def test_json_lines(tmp_path: Path, content: str, said: list[str]) -> None:
    error = refused(write(tmp_path, content, "mine.jsonl"))
    assert isinstance(error, RowsError)
    assert [line.split(" — ")[0] for line in error.shown] == said


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (ImportOptions(columns={"user": "usr"}), "--user: has no column 'usr' — did you mean 'user'?"),
        (ImportOptions(labels=("labell",)), "--label: has no column 'labell' — did you mean 'label'?"),
        (ImportOptions(columns={"user": "user", "text": "user"}), "column 'user' is given twice"),
        (ImportOptions(kind="ordinal"), "--kind ordinal: labels are x, y — pass --labels with them in order"),
        (ImportOptions(kind="singles"), "--kind: unknown kind 'singles' — did you mean 'single'?"),
        (ImportOptions(kind="single", labels=("label", "note")), "row 1: column 'label' holds neither 0 nor 1"),
        (ImportOptions(labels=("label", "note")), "row 1: column 'label' holds neither 0 nor 1"),
        (ImportOptions(label_set=("x", "z")), "row 2: label 'y' is not in --labels — known: x, z"),
        (ImportOptions(words=("yes",)), "--words: give 2 different words, one for each label in order: x, y"),
        (ImportOptions(words=("yes", "Yes")), "--words: give 2 different words"),
        (ImportOptions(columns={"time": "note"}), "row 1: time cannot be read — write seconds since 1970"),
        (ImportOptions(columns={"item": "note"}), "row 2: has the item key of row 1 but another text — give each text"),
        (ImportOptions(columns={"item": "gap"}), "row 2: item is empty — fill it in"),
    ],
)
def test_what_is_asked_for_and_cannot_be(tmp_path: Path, asked: ImportOptions, said: str) -> None:
    error = str(refused(write(tmp_path, "user,text,label,note,gap\nu,a,x,n,1\nu,b,y,n,\n"), asked))
    assert said in error


def test_columns_of_other_types(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user": ["u", "v"], "text": [b"one", b"two"], "label": ["x", "y"]})
    frame.write_parquet(tmp_path / "mine.parquet")
    assert str(refused(tmp_path / "mine.parquet")).endswith("column 'text' holds Binary — write text or numbers")


def test_holes_in_typed_columns_are_empty(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user": [1.0, float("nan")], "text": ["a", "b"], "label": [None, 1]})
    frame.write_parquet(tmp_path / "mine.parquet")
    error = refused(tmp_path / "mine.parquet", ImportOptions(label_set=("0", "1")))
    assert isinstance(error, RowsError)
    assert [line.split(" — ")[0] for line in error.shown] == ["row 1: label is empty", "row 2: user is empty"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [([[], []], "every row has the label 'none' — a task needs two"), ([None, None], "row 1: label is empty")],
)
def test_lists_without_a_label(tmp_path: Path, labels: list[None], message: str) -> None:
    frame = pl.DataFrame(
        {"user": ["u", "v"], "text": ["a", "b"], "label": labels}, schema_overrides={"label": pl.List(pl.String)}
    )
    frame.write_parquet(tmp_path / "mine.parquet")
    assert message in str(refused(tmp_path / "mine.parquet"))


def test_a_header_that_is_data_is_not_shown(tmp_path: Path) -> None:
    path = write(tmp_path, "somebody,good,1\nsomebody,bad,0\nanother,good,1\n")
    for asked in (None, ImportOptions(columns={"user": "who"})):
        error = str(refused(path, asked))
        assert "somebody" not in error
        assert "first line looks like data" in error


def test_user_keys_are_in_no_message(tmp_path: Path) -> None:
    error = refused(write(tmp_path, HEAD + "somebody,a,x\nsomebody,a,y\nsomebody,,y\nsomebody,b\n"))
    assert isinstance(error, RowsError)
    assert "somebody" not in str(error) + "".join(error.shown)


def test_a_missing_file_and_a_folder_of_something_else(tmp_path: Path) -> None:
    assert "cannot be read — check the path" in str(refused(tmp_path / "mine.csv"))
    (tmp_path / "mine").mkdir()
    assert "is a folder or archive of 0 files, and of no layout that is known" in str(refused(tmp_path / "mine"))


class TestCommandLine:
    def test_one_object_on_stdout(self, tmp_path: Path) -> None:
        path = write(tmp_path, "who,text,label\nsomebody,a,x\nsomebody,b,y\n")
        done = CliRunner().invoke(app, ["data", "import", str(path), "--user", "who", "--name", "own", "--json"])
        assert done.exit_code == 0
        assert '"task": "own"' in done.stdout
        done = CliRunner().invoke(
            app, ["data", "import", str(path), "--user", "who", "--name", "own", "--words", "a, b"]
        )
        assert "as given" in done.stdout
        assert "user 1" in done.stdout
        assert "somebody" not in done.output

    def test_ten_lines_on_stderr(self, tmp_path: Path) -> None:
        path = write(tmp_path, HEAD + "u,,x\nu,,y\n" * 15)
        done = CliRunner().invoke(app, ["data", "import", str(path), "--json"])
        assert done.exit_code != 0
        assert isinstance(done.exception, RowsError)
        assert done.stdout == ""
        assert done.stderr.count("text is empty") == 10

    def test_export_and_back(self, tmp_path: Path) -> None:
        path = write(tmp_path, HEAD + "u,a,x\nu,b,y\n")
        assert CliRunner().invoke(app, ["data", "import", str(path)]).exit_code == 0
        done = CliRunner().invoke(app, ["data", "export", "mine", "--out", str(tmp_path / "out"), "--json"])
        assert done.exit_code == 0, done.output
        done = CliRunner().invoke(app, ["data", "import", str(tmp_path / "out" / "mine.parquet"), "--name", "back"])
        assert done.exit_code == 0, done.output
        assert "a user table that peftu wrote" in done.stdout
