"""What the tasks' readers share: markup as text, meta without gaps, and files of other kinds that are broken."""

import io
from pathlib import Path

import polars as pl
import pytest

from peftu.data.check import check_task
from peftu.data.markup import plain_text
from peftu.data.reading import literal, meta, read_json, read_parquet, read_xml_rows
from peftu.data.synthetic import SyntheticTask
from peftu.data.task import Row
from peftu.errors import PeftuError


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>One\n line &amp; <em>more</em>.</p>\n\n<p>Two<br/>lines</p>", "One line & more.\n\nTwo\nlines"),
        ("<ul>\n<li>a</li>\n<li><p>b</p><p>c</p></li>\n</ul>", "- a\n- b\n\nc"),
        ("<pre><code>if x:\n    y  = 1\n</code></pre><p>z</p>", "if x:\n    y  = 1\n\nz"),
        ('<p>see <a href="u">here</a></p><script>no()</script><style>p {}</style>', "see here"),
        ("a < b &lt;c&gt; </pre></p> d", "a < b <c>\n\nd"),
        ("", ""),
    ],
)
def test_markup_becomes_what_a_reader_sees(html: str, text: str) -> None:
    assert plain_text(html) == text


def test_meta_has_no_gaps() -> None:
    assert meta(age=float("nan"), name=None, town="", split="val", count=0) == '{"split": "val", "count": 0}'
    assert meta(age=None) is None


@pytest.mark.parametrize("bad", ['{"age": NaN}', "[1]", "{"])
def test_meta_that_is_no_json_object_is_found_by_the_check(bad: str, tmp_path: Path) -> None:
    class Sloppy(SyntheticTask):
        def rows(self, raw: Path) -> list[Row]:  # type: ignore[override]
            return [Row("u", f"i{n}", f"t{n}", (label,), meta=bad) for n, label in enumerate(self.card.labels)]

    (tmp_path / "none.txt").write_text("")
    with pytest.raises(PeftuError, match="is no JSON object"):
        check_task(Sloppy, tmp_path)


def test_broken_files_are_one_line_each(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with pytest.raises(PeftuError, match=r"a: no such file — check the --raw folder"):
        read_json(path)
    path.write_text('{"a": ')
    with pytest.raises(PeftuError, match=r"a: is no JSON \(.*\) — the file is cut short"):
        read_json(path)
    path.write_bytes(b'"\xff"')
    with pytest.raises(PeftuError, match=r"a: byte 1 is not UTF-8"):
        read_json(path)
    with pytest.raises(PeftuError, match=r"a: is truncated or no Parquet file"):
        list(read_parquet(path, ("x",)))
    with pytest.raises(PeftuError, match=r"a: line 1: is no well-formed XML"):
        list(read_xml_rows(path))
    frame = io.BytesIO()
    pl.DataFrame({"x": [1, 2]}).write_parquet(frame)
    path.write_bytes(frame.getvalue())
    assert list(read_parquet(path, ("x",))) == [(1,), (2,)]
    with pytest.raises(PeftuError, match=r"a: .*y.* — needed: x, y"):
        list(read_parquet(path, ("x", "y")))
    for cell in ("[1,", "{[1]: 2}"):
        with pytest.raises(PeftuError, match="cell 3: holds no Python literal"):
            literal(cell, "cell 3")
