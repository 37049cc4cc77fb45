"""A table of judgements, written in any of the shapes that are reshaped, is the same task."""

import csv
import json
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from peftu.data.importer.importing import ImportOptions, import_file
from peftu.data.importer.reshape import Join, Reshaping
from peftu.data.load import load_task

names = st.text(st.characters(categories=("L", "N", "P"), exclude_characters="*?[\\"), min_size=1, max_size=6)
tables = st.dictionaries(
    st.tuples(names.map(lambda name: f"u{name}"), names.map(lambda name: f"i{name}")),
    st.sampled_from(["yes", "no", "1, or 2", "[x]"]),
    min_size=2,
    max_size=12,
).filter(lambda table: len(set(table.values())) > 1)


def write(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return path


@settings(max_examples=20, deadline=None)
@given(tables)
def test_every_shape_is_the_same_task(table: dict[tuple[str, str], str]) -> None:
    users, items = (sorted({pair[place] for pair in table}) for place in (0, 1))
    texts = [[item, f"text of {item}"] for item in items]
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        second = write(folder / "texts.csv", [["item", "text"], *texts])
        by_item = [[*pair, *(table.get((user, pair[0]), "") for user in users)] for pair in texts]
        by_user = [[user, *(table.get((user, item), "") for item in items)] for user in users]
        lists = []
        for pair in texts:
            labels = {user: label for (user, item), label in table.items() if item == pair[0]}
            lists.append([*pair, json.dumps([*labels]), json.dumps([*labels.values()])])
        shapes = {
            "users": ([["item", "text", *users], *by_item], Reshaping(wide_users="u*")),
            "items": ([["user", *items], *by_user], Reshaping(wide_items="i*", texts=second)),
            "lists": ([["item", "text", "user", "label"], *lists], Reshaping(explode=("user", "label"))),
            "join": (
                [["user", "item", "label"], *([*pair, label] for pair, label in table.items())],
                Reshaping(joins=(Join(second, "item"),)),
            ),
        }
        plain = [[*pair, f"text of {pair[1]}", label] for pair, label in table.items()]
        shapes["long"] = [["user", "item", "text", "label"], *plain], Reshaping()
        hashes = {}
        for name, (rows, how) in shapes.items():
            path = write(folder / f"{name}.csv", rows)
            found = import_file(
                path, ImportOptions("mine", kind="single", replacing=True, columns={"item": "item"}, reshaping=how)
            )
            hashes[name] = found["hash"]
        assert load_task("mine").frame.height == len(table)
        assert len(set(hashes.values())) == 1, hashes
