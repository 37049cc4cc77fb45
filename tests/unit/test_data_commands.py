"""Loading by name, the task check, and what the data commands return."""

import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar

import pytest
from rich.console import Console

from peftu.cli.tables import tables
from peftu.data import commands
from peftu.data.check import check_card, check_task
from peftu.data.load import load_task, option_choices
from peftu.data.synthetic import SyntheticTask, synthetic_card, synthetic_rows
from peftu.data.table import UserTable
from peftu.data.task import Row, SourceFile, TaskCard, tasks
from peftu.data.tasks.epic import Epic
from peftu.data.tasks.tweeteval import TweetEval
from peftu.errors import PeftuError

EPIC = "user,id_original,label,parent_text,text,source\nA,p1,iro,How?,Great.,reddit\nB,p1,not,How?,Great.,reddit\n"
TWEETS = "id,text,label_M_1,label_F_2\n7,hello,Hateful,Non-hateful\n8,bye,Non-hateful,Non-hateful\n"


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for the made-up task, registered as 'made-up'."""
    monkeypatch.setitem(tasks._loaded, "made-up", SyntheticTask)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "none.txt").write_text("nothing")
    return tmp_path / "raw"


class TestLoad:
    def test_is_built_once(self, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = load_task("made-up", raw)
        built = []
        monkeypatch.setattr(UserTable, "build", classmethod(lambda cls, *args: built.append(args) or first))
        assert load_task("made-up", raw).hash == first.hash
        assert not built
        load_task("made-up", raw, {"items": 31})
        (raw / "none.txt").write_text("changed")
        load_task("made-up", raw)
        assert len(built) == 2

    def test_a_damaged_table_in_the_cache_is_built_again(self, raw: Path, tmp_path: Path) -> None:
        first = load_task("made-up", raw)
        (stored,) = (tmp_path / "cache" / "tables" / "made-up").iterdir()
        stored.write_bytes(b"damaged")
        assert load_task("made-up", raw).hash == first.hash
        assert UserTable.read(stored).hash == first.hash

    def test_options(self, raw: Path) -> None:
        assert load_task("made-up", raw, {"users": 3}).frame["user_id"].n_unique() == 3
        assert option_choices(TweetEval) == {"group": {"default": "g3", "choices": ["g1", "g2", "g3"]}}
        assert option_choices(Epic) == {}

    @pytest.mark.parametrize(
        ("task", "options", "said"),
        [
            ("tweeteval", {"groups": "g1"}, "task 'tweeteval': unknown option 'groups' — did you mean 'group'?"),
            ("tweeteval", {"group": "g4"}, "task 'tweeteval': group='g4' — known: g1, g2, g3"),
            ("epic", {"group": "g1"}, "task 'epic': unknown option 'group' — it has none"),
            ("tweetevel", {}, "unknown task 'tweetevel' — did you mean 'tweeteval'?"),
        ],
    )
    def test_unknown_names(self, raw: Path, task: str, options: dict[str, Any], said: str) -> None:
        with pytest.raises(PeftuError) as caught:
            load_task(task, raw, options)
        assert str(caught.value) == said


class TestReaders:
    def test_tweeteval(self, tmp_path: Path) -> None:
        (tmp_path / "annotations_g3.csv").write_text(TWEETS)
        rows = list(TweetEval().rows(tmp_path))
        assert rows[:2] == [
            Row("g3-M_1", "7", "hello", ("Hateful",), meta='{"gender": "male"}'),
            Row("g3-F_2", "7", "hello", ("Non-hateful",), meta='{"gender": "female"}'),
        ]
        assert len(rows) == 4

    def test_epic(self, tmp_path: Path) -> None:
        (tmp_path / "EPICorpus.csv").write_text(EPIC)
        rows = list(Epic().rows(tmp_path))
        assert rows[0] == Row("A", "p1", "Great.", ("Ironic",), "How?", meta='{"source": "reddit"}')
        assert rows[1].target == ("Non-ironic",)
        assert check_task(Epic, tmp_path).frame.height == 2

    def test_a_new_label_is_found_by_its_row(self, tmp_path: Path) -> None:
        (tmp_path / "EPICorpus.csv").write_text(EPIC.replace(",not,", ",perhaps,"))
        with pytest.raises(PeftuError, match=r"^epic: row 2: label 'perhaps' is not in the label set"):
            load_task("epic", tmp_path)


class TestCheck:
    @pytest.mark.parametrize("name", ["tweeteval", "epic", "movielens"])
    def test_every_card_is_whole(self, name: str) -> None:
        check_card(tasks.get(name).card)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"licence": " "}, "card.licence: is empty — fill it in"),
            ({"name": "Big Name"}, "card.name: use small letters"),
            ({"homepage": "example.org"}, "card.homepage: give an https address"),
            ({"words": ("no", "not")}, "card.words: one begins with another"),
            ({"words": ("yes", "Yes")}, "card.words: one begins with another"),
            ({"files": ()}, "card.files: is empty"),
            ({"files": (SourceFile(name="a", sha256="12"),)}, "card.files: a: sha256 is not 64 hex digits"),
            ({"files": (SourceFile(name="a", url="http://x.org"),)}, "card.files: a: url is not an https address"),
            ({"files": (SourceFile(name="a", package="x"),)}, "card.files: a: a wheel needs package"),
        ],
    )
    def test_a_poor_card(self, change: dict[str, Any], said: str) -> None:
        with pytest.raises(PeftuError, match=said):
            check_card(synthetic_card().model_copy(update=change))

    def test_a_sound_task(self, raw: Path) -> None:
        assert check_task(SyntheticTask, raw, {"users": 4}).frame.height == 120

    def test_rows_that_change_between_readings(self, raw: Path) -> None:
        class Drawn(SyntheticTask):
            count = 0

            def rows(self, raw: Path) -> Iterator[Row]:
                Drawn.count += 1
                return synthetic_rows(seed=Drawn.count)

        with pytest.raises(PeftuError, match="two readings give different rows"):
            check_task(Drawn, raw)

    def test_a_label_that_nobody_gives(self, raw: Path) -> None:
        class Poor(SyntheticTask):
            card: ClassVar[TaskCard] = synthetic_card().model_copy(
                update={"labels": ("dislikes", "likes", "none"), "words": ()}
            )

        with pytest.raises(PeftuError, match="no row has label 'none'"):
            check_task(Poor, raw)


class TestCommands:
    def test_tasks(self) -> None:
        found = commands.describe_tasks()
        assert {"tweeteval", "epic", "movielens"} <= {one["name"] for one in found}
        assert all(one["licence"] and (one["labels"] or one["kind"] == "text") for one in found)
        one = commands.describe_task("tweeteval")
        assert one["options"]["group"]["default"] == "g3"
        assert one["content_warning"]

    def test_fetch_and_build(self, raw: Path, tmp_path: Path) -> None:
        found = commands.fetch("made-up", raw)
        assert [(file["name"], file["bytes"], file["pinned"]) for file in found["files"]] == [("none.txt", 7, False)]
        built = commands.build("made-up", raw, {"items": 20}, tmp_path / "out.parquet")
        assert (built["users"], built["texts"], built["annotations"]) == (6, 20, 120)
        assert UserTable.read(Path(built["table"])).hash == built["hash"]
        assert commands.build("made-up", raw, out=tmp_path)["table"] == str(tmp_path / "made-up.parquet")
        assert commands.build("made-up", raw)["table"] is None
        before = (tmp_path / "out.parquet").read_bytes()
        with pytest.raises(PeftuError, match=r"out\.parquet: is there already — delete it, or choose another --out"):
            commands.build("made-up", raw, out=tmp_path / "out.parquet")
        assert (tmp_path / "out.parquet").read_bytes() == before

    def test_stats_and_audit(self, raw: Path) -> None:
        found = commands.stats("made-up", raw)
        assert {"users", "texts", "annotations", "examples_per_user", "users_per_text", "alpha"} <= set(found)
        audited = commands.audit_task("made-up", raw, regime="unseen-text", seed=3)
        assert (audited["users"], audited["rows"], audited["seed"]) == (6, {"train": 144, "val": 18, "test": 18}, 3)
        with pytest.raises(PeftuError, match="unknown regime 'unseen-texts' — did you mean 'unseen-text'"):
            commands.audit_task("made-up", raw, regime="unseen-texts")

    def test_everything_is_json_and_a_table(self, raw: Path) -> None:
        results = [
            commands.describe_tasks(),
            commands.describe_task("movielens"),
            commands.fetch("made-up", raw),
            commands.build("made-up", raw),
            commands.stats("made-up", raw),
            commands.audit_task("made-up", raw),
        ]
        for result in results:
            assert json.loads(json.dumps(result)) == json.loads(json.dumps(result, default=str))
            console = Console(file=StringIO(), width=200)
            console.print(*tables(result))
            assert console.file.getvalue()  # type: ignore[attr-defined]
        assert tables([]) == []
