"""What every reader must bear: files of other layouts, and of none."""

import json
import zipfile
from pathlib import Path

import pytest

from peftu.data.readers.file import Reading
from peftu.data.readers.reader import opened, readers
from peftu.errors import PeftuError

FILES = {
    "table.csv": "user,text,label\nu,a,x\nu,b,y\n",
    "word": "hello",
    "blank": "\n\n",
    "objects": json.dumps([{"a": 1}, {"b": [1, {"c": 2}]}]),
    "object": json.dumps({"x": {"y": [1]}, "z": 3}),
    "lines": '{"user":1,"text":"a","label":[]}\n{"q":null}\n',
    "lists": "[[1,2],[3]]",
    "nothing": json.dumps([{"annotations": None, "data": None, "id": 1}]),
    "cut": "{",
    "binary": "\x00\x01PAR1",
    **{f"scalar{number}": text for number, text in enumerate(["[]", "{}", "null", "3", '"text"'])},
}


def read(path: Path, name: str | None) -> str:
    """Returns why a file is refused; nothing where it is read."""
    try:
        with opened(path, Reading(format=name)) as source:
            source.read(source.columns)
    except PeftuError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", [None, *readers.names()])
def test_any_file_is_read_or_refused_in_one_line(tmp_path: Path, name: str | None) -> None:
    (tmp_path / "folder").mkdir()
    for inner in ("a.json", "b.jsonl"):
        (tmp_path / "folder" / inner).write_text('{"text": "a"}\n3\n')
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as packed:
        for inner in ("folder/a.json", "folder/b.jsonl"):
            packed.write(tmp_path / inner, inner)
    for file, text in FILES.items():
        (tmp_path / file).write_text(text)
    for path in tmp_path.iterdir():
        message = read(path, name)
        assert not message or (message.startswith(str(path)) and "\n" not in message)
