"""Importing a file: what is found, what is kept, and the task that comes of it."""

import json
from pathlib import Path

import polars as pl
import pytest

from peftu.data import commands
from peftu.data.imported import ImportedTask, imports, remove
from peftu.data.importer.importing import ImportOptions, import_file
from peftu.data.load import load_task
from peftu.data.readers.file import Reading
from peftu.data.splits import make_problem, make_split
from peftu.data.table import UserTable
from peftu.data.task import tasks
from peftu.errors import PeftuError

CSV = "annotator,comment,toxic,created_at\nu1,hello,1,2024-01-02 03:04:05\nu2,hello,0,\nu1,bye,0,2024-01-03\n"


def write(folder: Path, content: str | bytes, name: str = "mine.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows(name: str = "mine") -> list[tuple[object, ...]]:
    frame = load_task(name).frame
    return frame.select("user_id", "text", pl.col("target").list.join("+")).rows()


THREE = [("u1", "bye", "0"), ("u1", "hello", "1"), ("u2", "hello", "0")]


class TestFormats:
    def test_csv(self, tmp_path: Path) -> None:
        found = import_file(write(tmp_path, CSV))
        assert (found["task"], found["kind"], found["labels"], found["read_as"]) == (
            "mine",
            "single",
            ["0", "1"],
            "text, comma between cells, utf-8",
        )
        assert (found["users"], found["texts"], found["annotations"]) == (2, 2, 3)
        assert {(c["role"], c["column"], c["taken"]) for c in found["columns"]} == {
            ("user", "annotator", "by its name"),
            ("text", "comment", "by its name"),
            ("time", "created_at", "by its name"),
            ("label", "toxic", "by its name"),
        }
        assert sorted(rows()) == sorted(THREE)
        assert json.loads(json.dumps(found)) == found
        assert load_task("mine").hash == found["hash"]

    @pytest.mark.parametrize(
        ("content", "name", "said"),
        [
            (CSV.replace(",", "\t"), "mine.tsv", "text, tab between cells, utf-8"),
            (CSV.replace(",", ";"), "mine.csv", "text, semicolon between cells, utf-8"),
            (CSV.replace(",", "|"), "mine.txt", "text, bar between cells, utf-8"),
            (CSV.replace("\n", "\r\n"), "mine.csv", "text, comma between cells, utf-8"),
            (CSV.replace("\n", "\n\n"), "mine.csv", "text, comma between cells, utf-8"),
            (CSV.replace("\n", "\r"), "mine.csv", "text, comma between cells, utf-8"),
            (CSV.rstrip(), "mine.csv", "text, comma between cells, utf-8"),
            (b"\xef\xbb\xbf" + CSV.encode(), "mine.csv", "text, comma between cells, utf-8"),
            (CSV.encode("utf-16"), "mine.csv", "text, comma between cells, utf-16"),
            (b"\xfe\xff" + CSV.encode("utf-16-be"), "mine.csv", "text, comma between cells, utf-16"),
            (CSV.encode("utf-16-le"), "mine.csv", "text, comma between cells, utf-16-le"),
            (CSV.encode("utf-32"), "mine.csv", "text, comma between cells, utf-32"),
        ],
    )
    def test_delimiters_and_encodings(self, tmp_path: Path, content: str | bytes, name: str, said: str) -> None:
        assert import_file(write(tmp_path, content, name))["read_as"] == said
        assert sorted(rows()) == sorted(THREE)

    @pytest.mark.parametrize("encoding", ["cp1252", "utf-8", "utf-16"])
    def test_accents(self, tmp_path: Path, encoding: str) -> None:
        content = "user,text,label\nJosé,“Ça va”, naïve\nZoë,schön,müde\n"
        path = write(tmp_path, content.encode(encoding))
        if encoding == "cp1252":  # naďve in cp1250, and nothing tells which
            with pytest.raises(PeftuError, match=r"codecs that read it: cp1252, cp1250, .* — pass --encoding"):
                import_file(path)
        given = Reading(encoding=encoding if encoding == "cp1252" else None)
        assert import_file(path, ImportOptions(reading=given))["read_as"].endswith(encoding)
        assert rows() == [("José", "“Ça va”", "naïve"), ("Zoë", "schön", "müde")]

    def test_jsonl_json_and_parquet(self, tmp_path: Path) -> None:
        frame = pl.DataFrame(
            {
                "user": [1, 1, 2],
                "text": ["bye", "hello", "hello"],
                "label": ["a", "b", "a"],
                "time": [1.5e9, 1.6e9, None],
            }
        )
        frame.write_ndjson(tmp_path / "one.jsonl")
        frame.write_json(tmp_path / "two.json")
        frame.write_parquet(tmp_path / "three.parquet")
        found = [import_file(tmp_path / name) for name in ("one.jsonl", "two.json", "three.parquet")]
        assert len({one["hash"] for one in found}) == 1
        assert [one["read_as"] for one in found] == ["JSONL, utf-8", "JSON, utf-8", "PARQUET"]
        assert rows("one") == [("1", "bye", "a"), ("1", "hello", "b"), ("2", "hello", "a")]
        assert load_task("one").frame["time"].to_list() == [1.5e9, 1.6e9, None]

    def test_json_of_mixed_types(self, tmp_path: Path) -> None:
        lines = ['{"user": 1, "text": "x", "label": 1, "extra": {"a": 1}}', '{"user": "b", "text": "y", "label": "no"}']
        lines.append('{"user": "b", "text": "z", "label": "1", "extra": [{"b": "c"}, true]}')
        import_file(write(tmp_path, "\n\n".join(lines), "mine.jsonl"))
        assert sorted(rows()) == [("1", "x", "1"), ("b", "y", "no"), ("b", "z", "1")]

    def test_quotes_hold_delimiters_and_lines(self, tmp_path: Path) -> None:
        import_file(write(tmp_path, 'user,text,label\nu,"a, ""b""\nc",x\nu,d,y\n'))
        assert sorted(rows()) == [("u", 'a, "b"\nc', "x"), ("u", "d", "y")]

    def test_quotes_that_are_text(self, tmp_path: Path) -> None:
        found = import_file(write(tmp_path, 'user\ttext\tlabel\nu\t"never closed\tx\nu\tb\ty\n', "mine.tsv"))
        assert sorted(rows()) == [("u", '"never closed', "x"), ("u", "b", "y")]
        assert any("quotes are characters here" in note for note in found["notes"])


class TestRoles:
    @pytest.mark.parametrize(
        "header", ["userId,Tweet,LABEL", "Annotator ID,comment_text,rating", "worker-id,body,verdict"]
    )
    def test_names_in_many_spellings(self, tmp_path: Path, header: str) -> None:
        import_file(write(tmp_path, f"{header}\nu,a,x\nu,b,y\n"))
        assert rows() == [("u", "a", "x"), ("u", "b", "y")] or rows() == [("u", "b", "y"), ("u", "a", "x")]

    def test_what_is_given_goes_before_names(self, tmp_path: Path) -> None:
        content = "user,text,label,who,what,mark,day\nx,x,x,u,a,yes,5\nx,y,x,u,b,no,6\n"
        columns = {"user": "who", "text": "what", "time": "day"}
        found = import_file(write(tmp_path, content), ImportOptions(columns=columns, labels=("mark",)))
        assert sorted(rows()) == [("u", "a", "yes"), ("u", "b", "no")]
        assert {(c["role"], c["taken"]) for c in found["columns"]} == {
            (role, "as given") for role in ("user", "text", "time", "label")
        }

    def test_reply_and_post(self, tmp_path: Path) -> None:
        import_file(write(tmp_path, "user,post,reply,label\nu,how?,fine,a\nu,how?,bad,b\nv,,fine,a\n"))
        frame = load_task("mine").frame
        assert sorted(frame.select("text", "context").rows(), key=str) == sorted(
            [("fine", "how?"), ("bad", "how?"), ("fine", None)], key=str
        )
        assert frame["item_id"].n_unique() == 3

    @pytest.mark.parametrize(
        ("ids", "used", "note"),
        [
            ("7 8 7", True, ""),
            ("1 2 3", False, "it numbers the rows"),
            ("7 7 7", False, "one key has several texts"),
            ("7 8 ", False, "it is empty in places"),
        ],
    )
    def test_an_item_column_that_was_found(self, tmp_path: Path, ids: str, used: bool, note: str) -> None:
        one, two, three = ids.split(" ")
        found = import_file(write(tmp_path, f"id,user,text,label\n{one},u,a,x\n{two},u,b,y\n{three},v,a,x\n"))
        assert any(column["role"] == "item" for column in found["columns"]) == used
        assert any(note in one for one in found["notes"]) or used
        items = set(load_task("mine").frame["item_id"])
        assert items == {"7", "8"} if used else all(item.startswith("t-") and len(item) == 18 for item in items)

    def test_a_time_column_that_holds_none(self, tmp_path: Path) -> None:
        found = import_file(write(tmp_path, "user,text,label,date\nu,a,x,monday\nu,b,y,tuesday\n"))
        assert "column 'date' is not used as time: time cannot be read in 2 cells" in found["notes"]
        assert load_task("mine").frame["time"].null_count() == 2

    def test_a_published_split(self, tmp_path: Path) -> None:
        content = "user,text,label,split\nu,a,x,Train\nu,b,y,train\nu,c,y,dev\nu,d,x,test\n"
        found = import_file(write(tmp_path, content))
        assert "column 'split' is kept as a published split (--regime published)" in found["notes"]
        audited = commands.audit_task("mine", regime="published")
        assert audited["rows"] == {"train": 2, "val": 1, "test": 1}
        other = import_file(write(tmp_path, content.replace("dev", "spare")), ImportOptions("other"))
        assert "column 'split' is not used as split: not every cell is train, validation or test" in other["notes"]


class TestLabels:
    def imported(
        self, folder: Path, cells: list[str], asked: ImportOptions | None = None, column: str = "label"
    ) -> dict[str, object]:
        lines = "".join(f"u{n % 3}\ttext {n}\t{cell}\n" for n, cell in enumerate(cells))
        return import_file(write(folder, f"user\ttext\t{column}\n{lines}", "mine.tsv"), asked)

    def test_whole_numbers_are_in_order_and_it_is_said(self, tmp_path: Path) -> None:
        found = self.imported(tmp_path, ["10", "9", "-1", "9.0"], column="stars")
        assert (found["kind"], found["labels"]) == ("ordinal", ["-1", "9", "10"])
        assert any("taken as ordered; pass --kind single" in note for note in found["notes"])
        assert found["instruction"] == "How does this person judge the text for 'stars'? Answer -1, 9 or 10."
        assert load_task("mine").card.kind == "ordinal"

    def test_numbers_may_name_classes(self, tmp_path: Path) -> None:
        found = self.imported(tmp_path, ["2", "0", "1"], ImportOptions(kind="single"))
        assert (found["kind"], found["labels"], found["notes"][:-1]) == ("single", ["0", "1", "2"], [])

    def test_two_numbers_are_two_classes(self, tmp_path: Path) -> None:
        assert self.imported(tmp_path, ["1", "0", "1.0"])["labels"] == ["0", "1"]

    def test_half_steps(self, tmp_path: Path) -> None:
        assert self.imported(tmp_path, ["0.5", "4", "3.5"])["labels"] == ["0.5", "3.5", "4"]

    def test_an_order_may_be_given(self, tmp_path: Path) -> None:
        asked = ImportOptions(kind="ordinal", label_set=("low", "mid", "high"), words=("a", "b", "c"))
        found = self.imported(tmp_path, ["mid", "low", "high"], asked)
        assert (found["kind"], found["labels"], found["words"]) == ("ordinal", ["low", "mid", "high"], ["a", "b", "c"])
        assert found["instruction"].endswith("Answer a, b or c.")  # type: ignore[attr-defined]

    def test_lists(self, tmp_path: Path) -> None:
        found = self.imported(tmp_path, ["['joy', 'fear']", '["joy"]', "[]", "[1]"])
        assert (found["kind"], found["labels"]) == ("multi", ["1", "fear", "joy", "none"])
        assert "1 rows have no label: they get the label 'none'" in found["notes"]
        assert sorted(target for _, _, target in rows()) == ["1", "fear+joy", "joy", "none"]

    def test_native_lists(self, tmp_path: Path) -> None:
        frame = pl.DataFrame({"user": ["a", "b"], "text": ["x", "y"], "labels": [["p", "q", "p"], ["q"]]})
        frame.write_parquet(tmp_path / "mine.parquet")
        assert import_file(tmp_path / "mine.parquet")["kind"] == "multi"
        assert rows() == [("a", "x", "p+q"), ("b", "y", "q")]

    @pytest.mark.parametrize("separator", ["|", ";", ", "])
    def test_separators(self, tmp_path: Path, separator: str) -> None:
        found = self.imported(tmp_path, [f"joy{separator}fear", "joy", ""], ImportOptions(kind="multi"))
        assert (found["kind"], found["labels"]) == ("multi", ["fear", "joy", "none"])

    def test_several_columns_mark(self, tmp_path: Path) -> None:
        content = "user,text,joy,fear\nu,a,1,0\nu,b,true,1.0\nv,a,,0\n"
        found = import_file(write(tmp_path, content), ImportOptions(labels=("joy", "fear")))
        assert (found["kind"], found["labels"]) == ("multi", ["joy", "fear", "none"])
        assert sorted(target for _, _, target in rows()) == ["joy", "joy+fear", "none"]
        again = import_file(write(tmp_path, content), ImportOptions("again", labels=("joy,fear",)))
        assert again["hash"] == found["hash"]

    def test_free_text(self, tmp_path: Path) -> None:
        found = self.imported(tmp_path, ["I think so.", "Never, ever."], ImportOptions(kind="text"))
        assert (found["kind"], found["labels"]) == ("text", [])
        assert load_task("mine").card.kind == "text"

    def test_a_label_that_stands_once_is_remarked_on(self, tmp_path: Path) -> None:
        found = self.imported(tmp_path, ["good", "bad"] * 600 + ["godo"])
        assert "label 'godo' stands in one row only: a typing error?" in found["notes"]


class TestTask:
    def test_every_command_takes_it_by_name(self, tmp_path: Path) -> None:
        found = import_file(
            write(tmp_path, "user,text,label\n" + "".join(f"u{n % 2},t{n},{n % 3}\n" for n in range(60)))
        )
        assert "mine" in tasks.names()
        assert commands.describe_task("mine")["labels"] == ["0", "1", "2"]
        assert "mine" in [one["name"] for one in commands.describe_tasks()]
        fetched = commands.fetch("mine")
        assert fetched["folder"] == found["folder"]
        assert commands.build("mine")["hash"] == commands.stats("mine")["hash"] == found["hash"]
        assert commands.audit_task("mine", regime="unseen-user", k=2)["users"] == 2
        table = load_task("mine")
        assert make_problem(table, table.card, make_split(table)).target.shape == (60, 3)
        assert load_task("mine", options={"min_examples": 30}).hash == found["hash"]
        task = tasks.get("mine")
        assert issubclass(task, ImportedTask)
        assert UserTable.build(task.card, task().rows(task.folder)).hash == found["hash"]
        assert not (tmp_path / "cache" / "tables").exists()

    def test_no_user_is_named(self, tmp_path: Path) -> None:
        found = import_file(write(tmp_path, CSV.replace("u1", "somebody").replace("u2", "anybody")))
        told = json.dumps(found)
        assert "somebody" not in told
        assert "anybody" not in told
        assert [one["user"] for one in found["first_rows"]] == ["user 1", "user 2"]
        assert not [path for path in (tmp_path / "cache").rglob("*body*")]

    def test_the_same_again_and_other_data(self, tmp_path: Path) -> None:
        first = import_file(write(tmp_path, CSV))
        assert import_file(write(tmp_path, CSV))["hash"] == first["hash"]
        with pytest.raises(PeftuError, match="other data was imported under it — choose another, or pass --replace"):
            import_file(write(tmp_path, CSV.replace("bye", "ciao")))
        assert load_task("mine").hash == first["hash"]
        second = import_file(write(tmp_path, CSV.replace("bye", "ciao")), ImportOptions(replacing=True))
        assert load_task("mine").hash == second["hash"] != first["hash"]
        assert len(list(Path(second["folder"]).iterdir())) == 2

    def test_a_damaged_table_is_told(self, tmp_path: Path) -> None:
        folder = Path(import_file(write(tmp_path, CSV))["folder"])
        (table,) = folder.glob("*.parquet")
        table.write_bytes(table.read_bytes()[:-9])
        with pytest.raises(PeftuError, match="is truncated"):
            load_task("mine")
        (folder / "card.json").write_text("{")
        assert "mine" not in tasks.names()
        with pytest.raises(PeftuError, match="is damaged — import 'mine' again with --replace"):
            tasks.get("mine")
        import_file(write(tmp_path, CSV), ImportOptions(replacing=True))
        assert load_task("mine").frame.height == 3

    def test_deleting(self, tmp_path: Path) -> None:
        folder = Path(import_file(write(tmp_path, CSV))["folder"])
        other = Path(import_file(write(tmp_path, CSV), ImportOptions("mine-too"))["folder"])
        (other / "note.txt").write_text("by hand")
        assert remove("mine") == folder
        assert not folder.exists()
        assert (tmp_path / "mine.csv").exists()
        with pytest.raises(PeftuError, match="no imported task 'mine' — did you mean 'mine-too'"):
            remove("mine")
        (other / "card.json").write_text("{")
        remove("mine-too")
        assert [path.name for path in other.iterdir()] == ["note.txt"]
        with pytest.raises(PeftuError, match="'epic' comes with peftu and is no import"):
            remove("epic")
        with pytest.raises(PeftuError, match="no imported task"):
            remove("../imported/mine-too")

    @pytest.mark.parametrize("name", ["../up", "Big", "a_b", "a" * 65, "-a", "epic", "a/b", "x.y"])
    def test_names_that_cannot_be(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(PeftuError, match="--name"):
            import_file(write(tmp_path, CSV), ImportOptions(name))
        assert imports.find(name) is None
        assert not (tmp_path / "cache" / "imported").exists()

    def test_a_name_of_its_own(self, tmp_path: Path) -> None:
        assert import_file(write(tmp_path, CSV, "My Data_2.csv"))["task"] == "my-data-2"
        with pytest.raises(PeftuError, match="pass --name"):
            import_file(write(tmp_path, CSV, "ʘ.csv"))

    def test_rows_that_repeat_are_left_out_and_counted(self, tmp_path: Path) -> None:
        found = import_file(write(tmp_path, CSV + "u1,hello,1,2025-01-01\n"))
        assert found["annotations"] == 3
        assert "rows that repeat an earlier one: 1 left out" in found["notes"]
        assert commands.stats("mine")["notes"] == {"rows that repeat an earlier one": 1}
        assert load_task("mine").frame["time"].max() < 1735689600  # the first one stays
