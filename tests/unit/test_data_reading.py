"""Publishers' files: delimited text and pickled frames, whole, odd and hostile."""

import lzma
import os
import pickle
from pathlib import Path

import pytest

from peftu.data.frames import read_pickled_frame
from peftu.data.reading import read_csv
from peftu.errors import PeftuError


def test_rows_of_a_file_with_quotes_line_breaks_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes('\ufeffid,text\r\n1,"a ""b"",\nc"\r\n2,é'.encode())
    assert list(read_csv(path, ("id",))) == [{"id": "1", "text": 'a "b",\nc'}, {"id": "2", "text": "é"}]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"id,words\n1,a\n", r"a\.csv: has no column 'text' — columns: id, words"),
        (b"", r"a\.csv: has no column 'id' — columns: none"),
        (b"id,text\n1,a\n2\n", r"a\.csv: line 3: 1 cells under 2 columns — the file is cut short or was edited"),
        (b'id,text\n1,"a', r"a\.csv: line 2: unexpected end of data — the file is cut short or was edited"),
        (b"id,text\n1,\xff\n", r"a\.csv: byte 10 is not UTF-8 — save the file as UTF-8"),
    ],
)
def test_a_bad_file_is_one_line_with_its_place(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(PeftuError, match=said) as caught:
        list(read_csv(tmp_path / "a.csv", ("id", "text")))
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(PeftuError, match=r"a\.csv: no such file — check the --raw folder"):
        list(read_csv(tmp_path / "a.csv"))


class Hostile:
    def __reduce__(self) -> object:
        return os.system, ("touch hostile",)


@pytest.mark.parametrize(
    "content", [lzma.compress(pickle.dumps(Hostile())), lzma.compress(pickle.dumps({"a": 1})), b"", b"\xfd7zXZ cut"]
)
def test_a_pickle_runs_nothing(tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(PeftuError, match="is truncated or no pickled data frame of the known layout"):
        read_pickled_frame(tmp_path / "a.pkl")
    assert not (tmp_path / "hostile").exists()
