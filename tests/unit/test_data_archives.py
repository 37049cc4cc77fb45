"""Packed raw files: what is read, and what is refused in one line."""

import bz2
import gzip
import io
import lzma
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

from peftu.data import archives as module
from peftu.data.archives import Member, archives_in, find, opened, unpack
from peftu.data.load import load_task
from peftu.data.reading import read_csv, read_json_lines
from peftu.data.sources import raw_files
from peftu.data.synthetic import synthetic_card
from peftu.data.task import SourceFile, TaskCard
from peftu.errors import PeftuError

ROWS = b"user,label\na,1\nb,0\n" * 50
Contents = dict[str, bytes]


def zipped(path: Path, contents: Contents) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path, contents: Contents) -> Path:
    mode = {".gz": "w:gz", ".tgz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz"}.get(path.suffix, "w")
    with tarfile.open(path, mode) as archive:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def one_line(run: Callable[[], object]) -> str:
    with pytest.raises(PeftuError) as caught:
        run()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def look_for(name: str, folder: Path) -> Member | None:
    return find(name, archives_in(folder))


class TestReading:
    @pytest.mark.parametrize(
        ("name", "pack"),
        [
            ("rows.csv.gz", lambda path: path.write_bytes(gzip.compress(ROWS))),
            ("rows.csv.bz2", lambda path: path.write_bytes(bz2.compress(ROWS))),
            ("rows.csv.xz", lambda path: path.write_bytes(lzma.compress(ROWS))),
            ("all.zip", lambda path: zipped(path, {"other.csv": b"", "rows.csv": ROWS})),
            ("ALL.ZIP", lambda path: zipped(path, {"deep/er/rows.csv": ROWS, "my-rows.csv": b"", "x/": b""})),
            ("all.tar", lambda path: tarred(path, {"other.csv": b"", "rows.csv": ROWS})),
            ("all.tar.gz", lambda path: tarred(path, {"a/rows.csv": ROWS, "b.csv": b""})),
            ("all.tgz", lambda path: tarred(path, {"./rows.csv": ROWS})),
            ("all.tar.bz2", lambda path: tarred(path, {"rows.csv": ROWS})),
            ("all.tar.xz", lambda path: tarred(path, {"rows.csv": ROWS})),
        ],
    )
    def test_every_kind(self, tmp_path: Path, name: str, pack: Callable[[Path], object]) -> None:
        pack(tmp_path / name)
        member = look_for("rows.csv", tmp_path)
        assert member is not None
        assert unpack(member, tmp_path / "out").read_bytes() == ROWS
        assert look_for("none.csv", tmp_path) is None

    def test_a_file_at_the_root_wins_and_archives_in_archives_stay_shut(self, tmp_path: Path) -> None:
        inner = zipped(tmp_path / "inner", {"rows.csv": b"inner"}).read_bytes()
        (tmp_path / "inner").unlink()
        zipped(tmp_path / "all.zip", {"old/rows.csv": b"old", "rows.csv": ROWS, "inner.zip": inner})
        assert look_for("rows.csv", tmp_path) == Member(tmp_path / "all.zip", "rows.csv")
        zipped(tmp_path / "all.zip", {"inner.zip": inner})
        assert look_for("rows.csv", tmp_path) is None


class TestRefusing:
    @pytest.mark.parametrize("pack", [zipped, tarred])
    @pytest.mark.parametrize(
        "bad", ["../rows.csv", "/etc/rows.csv", "a/../../rows.csv", "C:\\rows.csv", "..\\rows.csv"]
    )
    def test_names_that_lead_out(self, tmp_path: Path, pack: Callable[[Path, Contents], Path], bad: str) -> None:
        folder = tmp_path / "in"
        folder.mkdir()
        pack(folder / ("all.zip" if pack is zipped else "all.tar.gz"), {"rows.csv": ROWS, bad: b"evil"})
        said = one_line(lambda: look_for("rows.csv", folder))
        assert "which leads out of its folder — do not trust it" in said
        assert len(list(tmp_path.rglob("*"))) == 2

    def test_links_are_no_files(self, tmp_path: Path) -> None:
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            for name, kind in (
                ("rows.csv", tarfile.SYMTYPE),
                ("hard.csv", tarfile.LNKTYPE),
                ("pipe", tarfile.FIFOTYPE),
            ):
                info = tarfile.TarInfo(name)
                info.type, info.linkname = kind, "/etc/passwd"
                archive.addfile(info)
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as zip_archive:
            link = zipfile.ZipInfo("rows.csv")
            link.external_attr = (stat.S_IFLNK | 0o777) << 16
            zip_archive.writestr(link, "/etc/passwd")
        for name in ("rows.csv", "hard.csv", "pipe"):
            assert look_for(name, tmp_path) is None
        with (
            pytest.raises(PeftuError, match=r"holds no plain file 'rows\.csv'"),
            opened(Member(tmp_path / "a.tar", "rows.csv")),
        ):
            pass

    @pytest.mark.parametrize("kind", ["gz", "zip", "tar.gz"])
    def test_bombs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
        monkeypatch.setattr(module, "SLACK", 1000)
        bomb = bytes(3_000_000)
        path = tmp_path / f"rows.csv.{kind}"
        if kind == "gz":
            path.write_bytes(gzip.compress(bomb))
        else:
            (zipped if kind == "zip" else tarred)(path, {"rows.csv": bomb})
        assert len(bomb) > module.RATIO * path.stat().st_size

        def run() -> None:
            member = look_for("rows.csv", tmp_path)
            assert member is not None
            unpack(member, tmp_path / "out")

        assert "bytes when unpacked, as a zip bomb does — if you trust it, unpack it by hand" in one_line(run)
        assert [one.name for one in tmp_path.iterdir()] == [path.name]

    def test_size_has_a_limit_of_its_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "rows.csv.gz").write_bytes(gzip.compress(ROWS))
        monkeypatch.setattr(module, "LARGEST", len(ROWS) - 1)
        member = Member(tmp_path / "rows.csv.gz")
        assert f"grows beyond {len(ROWS) - 1:,} bytes" in one_line(lambda: unpack(member, tmp_path / "out"))
        monkeypatch.setattr(module, "LARGEST", len(ROWS))
        assert unpack(member, tmp_path / "out").read_bytes() == ROWS

    def test_too_many_files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "MOST_MEMBERS", 3)
        zipped(tmp_path / "a.zip", {f"{number}.csv": b"" for number in range(4)})
        assert "holds more than 3 files" in one_line(lambda: look_for("0.csv", tmp_path))

    @pytest.mark.parametrize("kind", ["rows.csv.gz", "rows.csv.bz2", "rows.csv.xz", "a.zip", "a.tar.gz", "a.tar"])
    @pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
    def test_cut_short(self, tmp_path: Path, kind: str, share: float) -> None:
        path = tmp_path / kind
        noise = b"".join(b"%d," % (number**3) for number in range(20_000))
        packers = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
        if kind.startswith("a."):
            (zipped if kind == "a.zip" else tarred)(path, {"rows.csv": noise})
        else:
            path.write_bytes(packers[path.suffix[1:]](noise))
        whole = path.read_bytes()
        size = len(noise) if kind == "a.tar" else len(whole)
        path.write_bytes(whole[: int(share * size)])

        def run() -> None:
            member = look_for("rows.csv", tmp_path) or Member(path, "rows.csv")
            unpack(member, tmp_path / "out")

        said = one_line(run)
        assert "is truncated or damaged — get it again" in said or (kind == "a.tar" and "no plain file" in said)
        assert [one.name for one in tmp_path.iterdir()] == [kind]

    def test_damaged_inside(self, tmp_path: Path) -> None:
        path = zipped(tmp_path / "a.zip", {"rows.csv": ROWS})
        whole = bytearray(path.read_bytes())
        whole[45] ^= 255
        path.write_bytes(whole)
        assert "damaged" in one_line(lambda: unpack(Member(path, "rows.csv"), tmp_path / "out"))

    def test_a_password(self, tmp_path: Path) -> None:
        path = zipped(tmp_path / "a.zip", {"rows.csv": ROWS})
        whole = path.read_bytes()
        flagged = whole.replace(b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00")
        path.write_bytes(flagged.replace(b"PK\x03\x04\x14\x00\x00\x00", b"PK\x03\x04\x14\x00\x01\x00"))
        said = one_line(lambda: unpack(Member(path, "rows.csv"), tmp_path / "out"))
        assert re.search(r"cannot be unpacked \(.*password.*\) — unpack it by hand", said)

    def test_the_same_file_twice(self, tmp_path: Path) -> None:
        zipped(tmp_path / "a.zip", {"x/rows.csv": ROWS})
        (tmp_path / "rows.csv.gz").write_bytes(gzip.compress(ROWS))
        said = one_line(lambda: look_for("rows.csv", tmp_path))
        assert "rows.csv stands in a.zip/x/rows.csv and rows.csv.gz — leave only one there" in said

    def test_7z_says_how_to_unpack(self, tmp_path: Path) -> None:
        (tmp_path / "site.7z").write_bytes(b"7z")
        said = one_line(lambda: look_for("Posts.xml", tmp_path))
        assert f"7z e -o{tmp_path} {tmp_path}/site.7z Posts.xml" in said
        zipped(tmp_path / "a.zip", {"Posts.xml": ROWS})
        assert look_for("Posts.xml", tmp_path) == Member(tmp_path / "a.zip", "Posts.xml")


class TestRawFolder:
    files = (SourceFile(name="one.csv"), SourceFile(name="sub/two.csv"), SourceFile(name="maybe.csv", optional=True))
    card: ClassVar[TaskCard] = synthetic_card().model_copy(update={"files": files})

    def test_plain_and_packed_together(self, tmp_path: Path) -> None:
        raw = tmp_path / "raw"
        raw.mkdir()
        (raw / "one.csv").write_bytes(b"plain")
        zipped(raw / "all.zip", {"top/sub/two.csv": ROWS, "one.csv": b"not this"})
        folder, digests = raw_files(self.card, raw, {})
        assert (folder / "one.csv").read_bytes() == b"plain"
        assert (folder / "sub" / "two.csv").read_bytes() == ROWS
        assert set(digests) == {"one.csv", "sub/two.csv"}
        assert sorted(path.name for path in raw.iterdir()) == ["all.zip", "one.csv"]
        before = (folder / "sub" / "two.csv").stat().st_mtime_ns
        assert raw_files(self.card, raw, {})[0] == folder
        assert (folder / "sub" / "two.csv").stat().st_mtime_ns == before
        zipped(raw / "all.zip", {"top/sub/two.csv": b"newer"})
        assert (raw_files(self.card, raw, {})[0] / "sub" / "two.csv").read_bytes() == b"newer"

    def test_an_archive_in_place_of_a_folder(self, tmp_path: Path) -> None:
        zipped(tmp_path / "all.zip", {"one.csv": b"1", "sub/two.csv": b"2", "maybe.csv": b"3"})
        digests = raw_files(self.card, tmp_path / "all.zip", {})[1]
        assert sorted(digests) == ["maybe.csv", "one.csv", "sub/two.csv"]
        zipped(tmp_path / "all.zip", {"one.csv": b"1"})
        with pytest.raises(PeftuError, match=r"sub/two\.csv is not in .*unpacked.* — get it from"):
            raw_files(self.card, tmp_path / "all.zip", {})
        (tmp_path / "table.csv").write_bytes(ROWS)
        with pytest.raises(PeftuError, match="is not a folder"):
            raw_files(self.card, tmp_path / "table.csv", {})

    def test_a_task_from_a_zip_is_the_task(self, tmp_path: Path) -> None:
        comments = b"timestamp,datetime,comment-id,author-id,agrees,disagrees,moderated,comment-body\n"
        comments += b"1,x,0,1,1,0,1,Yes?\n2,x,1,1,0,1,1,No?\n"
        votes = b"participant,group-id,n-comments,n-votes,n-agree,n-disagree,0,1\n0,0,0,2,1,1,1,-1\n1,0,0,1,1,0,1,\n"
        plain = tmp_path / "plain"
        plain.mkdir()
        (plain / "comments.csv").write_bytes(comments)
        (plain / "participants-votes.csv").write_bytes(votes)
        archive = tarred(tmp_path / "export.tar.gz", {"p/comments.csv": comments, "p/participants-votes.csv": votes})
        assert load_task("polis", archive).hash == load_task("polis", plain).hash


def test_a_line_without_an_end_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peftu.data.reading.LONGEST_CELL", 1000)
    (tmp_path / "a.csv").write_bytes(b"id,text\n1," + b"x" * 5000)
    assert "line 2: is longer than 1,000 characters" in one_line(lambda: list(read_csv(tmp_path / "a.csv")))
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(b'{"a": 1}\n"' + b"x" * 5000))
    assert "line 2: is longer than 1,000 characters" in one_line(lambda: list(read_json_lines(tmp_path / "a.json.gz")))
