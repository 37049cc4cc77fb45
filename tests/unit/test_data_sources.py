"""Where raw files come from, and what is said when they do not come."""

import errno
import hashlib
import importlib.metadata
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from peftu.data import sources
from peftu.data.download import download
from peftu.data.sources import cache_dir, fetch_file, fetch_wheel_member, inside, raw_files
from peftu.data.synthetic import synthetic_card
from peftu.data.task import SourceFile, TaskCard
from peftu.errors import PeftuError

CONTENT = b"published rows " * 100
SHA = hashlib.sha256(CONTENT).hexdigest()
URL = "https://publisher.example/raw.csv"
Handler = Callable[[httpx.Request], httpx.Response]


def card(**changes: Any) -> TaskCard:
    file = SourceFile(**{"name": "raw.csv", "url": URL, "sha256": SHA, "bytes": len(CONTENT)} | changes)
    return synthetic_card().model_copy(update={"files": (file,)})


def fetch(handler: Handler, dest: Path, sha256: str | None = SHA) -> Path:
    return download(URL, dest, sha256, "pass --raw FOLDER", httpx.MockTransport(handler))


def answer(code: int, content: bytes = b"", **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(code, headers=named, stream=httpx.ByteStream(content))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def served(request: httpx.Request) -> httpx.Response:
    start = int(request.headers.get("Range", "bytes=0-")[6:-1])
    if start >= len(CONTENT):
        return answer(416)
    where = {"Content_Range": f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"} if start else {}
    return answer(206 if start else 200, CONTENT[start:], Content_Length=str(len(CONTENT) - start), **where)


def failing(error: type[httpx.HTTPError]) -> Handler:
    def handle(request: httpx.Request) -> httpx.Response:
        raise error("told", request=request)

    return handle


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("PEFTU_CACHE")
    assert cache_dir().name == "peftu"


class TestDownload:
    def test_whole(self, tmp_path: Path) -> None:
        assert fetch(served, tmp_path / "raw.csv").read_bytes() == CONTENT
        assert names(tmp_path) == ["raw.csv"]

    def test_goes_on_after_a_break(self, tmp_path: Path) -> None:
        (tmp_path / "raw.csv.part").write_bytes(CONTENT[:200])
        asked = []

        def handle(request: httpx.Request) -> httpx.Response:
            asked.append(request.headers.get("Range"))
            return served(request)

        assert fetch(handle, tmp_path / "raw.csv").read_bytes() == CONTENT
        assert asked == ["bytes=200-"]

    @pytest.mark.parametrize("old", [b"an older release of the file", CONTENT + b"too long"])
    def test_begins_again_when_the_first_half_was_another_file(self, tmp_path: Path, old: bytes) -> None:
        (tmp_path / "raw.csv.part").write_bytes(old)
        assert fetch(served, tmp_path / "raw.csv").read_bytes() == CONTENT

    def test_takes_a_server_that_knows_no_ranges(self, tmp_path: Path) -> None:
        (tmp_path / "raw.csv.part").write_bytes(CONTENT[:200])
        assert fetch(lambda _: answer(200, CONTENT), tmp_path / "raw.csv").read_bytes() == CONTENT

    def test_a_complete_part_is_taken(self, tmp_path: Path) -> None:
        (tmp_path / "raw.csv.part").write_bytes(CONTENT)
        assert fetch(served, tmp_path / "raw.csv").read_bytes() == CONTENT

    def test_without_a_digest_nothing_is_glued(self, tmp_path: Path) -> None:
        (tmp_path / "raw.csv.part").write_bytes(b"something old")
        assert fetch(served, tmp_path / "raw.csv", None).read_bytes() == CONTENT

    def test_changed_by_the_publisher(self, tmp_path: Path) -> None:
        with pytest.raises(
            PeftuError, match=f"sha256 is .*, not {SHA} — the publisher may have changed the file; pass"
        ):
            fetch(lambda _: answer(200, b"new"), tmp_path / "raw.csv")
        assert names(tmp_path) == []

    def test_cut_short_keeps_what_came(self, tmp_path: Path) -> None:
        def handle(_: httpx.Request) -> httpx.Response:
            return answer(200, CONTENT[:300], Content_Length="1500")

        with pytest.raises(PeftuError, match=r"cut short .* — run the command again to go on"):
            fetch(handle, tmp_path / "raw.csv")
        assert (tmp_path / "raw.csv.part").stat().st_size == 300

    @pytest.mark.parametrize(
        ("handler", "said"),
        [
            (lambda _: answer(404), "answered 404 — the file may have moved; pass --raw FOLDER"),
            (failing(httpx.ConnectError), "cannot be reached — check the network, or pass --raw FOLDER"),
            (failing(httpx.ReadTimeout), r"cut short \(ReadTimeout\)"),
        ],
    )
    def test_refusals_are_one_line(self, tmp_path: Path, handler: Handler, said: str) -> None:
        with pytest.raises(PeftuError, match=said) as caught:
            fetch(handler, tmp_path / "raw.csv")
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(URL)


class TestRawFiles:
    def test_a_folder_of_the_right_files(self, tmp_path: Path) -> None:
        (tmp_path / "raw.csv").write_bytes(CONTENT)
        assert raw_files(card(), tmp_path, {}) == (tmp_path, {"raw.csv": SHA})

    def test_only_the_files_of_the_chosen_option_are_asked_for(self, tmp_path: Path) -> None:
        (tmp_path / "raw.csv").write_bytes(CONTENT)
        two = card(option="group=a").files[0], SourceFile(name="b.csv", option="group=b")
        both = synthetic_card().model_copy(update={"files": two})
        assert raw_files(both, tmp_path, {"group": "a"})[1] == {"raw.csv": SHA}
        with pytest.raises(PeftuError, match=r"b\.csv is not in"):
            raw_files(both, tmp_path, {"group": "b"})

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(PeftuError, match=rf"raw\.csv is not in {tmp_path} — get it from {URL}, or leave --raw out"):
            raw_files(card(), tmp_path, {})
        with pytest.raises(PeftuError, match=r"is not a folder — pass --raw the folder with raw\.csv"):
            raw_files(card(), tmp_path / "nowhere", {})
        with pytest.raises(PeftuError, match=r"it is m/raw\.csv in the wheel w==1"):
            raw_files(card(url=None, package="w==1", member="m/raw.csv"), tmp_path, {})

    def test_truncated_and_changed(self, tmp_path: Path) -> None:
        (tmp_path / "raw.csv").write_bytes(CONTENT[:-7])
        with pytest.raises(PeftuError, match=r"raw\.csv: is truncated \(1493 of 1500 bytes\) — get it from"):
            raw_files(card(), tmp_path, {})
        (tmp_path / "raw.csv").write_bytes(CONTENT + b"!")
        got = hashlib.sha256(CONTENT + b"!").hexdigest()
        with pytest.raises(PeftuError, match=f"sha256 is {got}, the card of 'synthetic-single' says {SHA}"):
            raw_files(card(), tmp_path, {})
        assert raw_files(card(), tmp_path, {}, allow_changed=True)[1] == {"raw.csv": got}

    def test_from_the_publisher_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        calls = []

        def fake(url: str, dest: Path, sha256: str | None, hint: str) -> Path:
            calls.append(url)
            return fetch(served, dest, sha256)

        monkeypatch.setattr(sources, "download", fake)
        for _ in range(2):
            folder, digests = raw_files(card(), None, {})
            assert (folder / "raw.csv").read_bytes() == CONTENT
            assert digests == {"raw.csv": SHA}
        (folder / "raw.csv").write_bytes(b"damaged")
        raw_files(card(), None, {})
        assert len(calls) == 2

    def test_an_unknown_digest_is_trusted_once_and_then_held(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sources, "download", lambda url, dest, sha256, hint: fetch(served, dest, sha256))
        path = fetch_file(card(sha256=None), card(sha256=None).files[0])
        path.write_bytes(b"damaged")
        assert fetch_file(card(sha256=None), card(sha256=None).files[0]).read_bytes() == CONTENT
        path.unlink()
        monkeypatch.setattr(sources, "download", lambda u, d, s, hint: fetch(lambda _: answer(200, b"changed"), d, s))
        with pytest.raises(PeftuError, match="the publisher may have changed the file"):
            fetch_file(card(sha256=None), card(sha256=None).files[0])

    def test_no_address(self) -> None:
        with pytest.raises(
            PeftuError, match=r"raw\.csv has no address — get it from https://example\.org and pass --raw"
        ):
            raw_files(card(url=None), None, {})

    @pytest.mark.parametrize("name", ["../up.csv", "/etc/passwd", "a/../../b", "", ".", "C:\\x", "..\\up"])
    def test_names_never_lead_out(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(PeftuError, match="leads out of its folder"):
            inside(tmp_path, name)
        assert inside(tmp_path, "sub/a.csv") == tmp_path / "sub" / "a.csv"


class TestWheels:
    def wheel(self, folder: Path, members: dict[str, bytes]) -> Path:
        folder.mkdir(exist_ok=True)
        path = folder / "rows-1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return path

    @pytest.fixture
    def index(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[dict[str, bytes]], None]:
        """Returns a function that puts a wheel with these members on the stand-in package index."""

        def offer(members: dict[str, bytes]) -> None:
            wheel = self.wheel(tmp_path / "index", members).read_bytes()

            def pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
                assert "--no-deps" in command
                assert "--only-binary=:all:" in command
                (Path(command[command.index("--dest") + 1]) / "rows-1.0-py3-none-any.whl").write_bytes(wheel)
                return subprocess.CompletedProcess(command, 0, "", "")

            monkeypatch.setattr(sources.subprocess, "run", pip)

        return offer

    def test_one_member_and_nothing_else(self, index: Callable[..., None], tmp_path: Path) -> None:
        index({"rows/a.bin": CONTENT, "../evil": b"x", "rows/b.bin": b"y"})
        dest = tmp_path / "deep" / "a.bin"
        assert fetch_wheel_member("rows==1.0", "rows/a.bin", SHA, dest) == dest
        assert dest.read_bytes() == CONTENT
        assert names(dest.parent) == ["a.bin"]
        assert not (tmp_path / "evil").exists()

    def test_a_right_file_is_left_alone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "a.bin").write_bytes(CONTENT)
        monkeypatch.setattr(sources, "_pip_download", None)
        fetch_wheel_member("rows==1.0", "rows/a.bin", SHA, tmp_path / "a.bin")

    def test_wrong_digest_leaves_nothing(self, index: Callable[..., None], tmp_path: Path) -> None:
        index({"rows/a.bin": b"other"})
        with pytest.raises(PeftuError, match=f"rows==1.0: rows/a.bin: sha256 is .*, not {SHA}"):
            fetch_wheel_member("rows==1.0", "rows/a.bin", SHA, tmp_path / "out" / "a.bin")
        assert names(tmp_path / "out") == []

    def test_missing_member(self, index: Callable[..., None], tmp_path: Path) -> None:
        index({"rows/b.bin": CONTENT})
        with pytest.raises(PeftuError, match=r"the wheel has no file 'rows/a\.bin'"):
            fetch_wheel_member("rows==1.0", "rows/a.bin", SHA, tmp_path / "a.bin")

    def test_damaged_wheel(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        bad = tmp_path / "x.whl"
        bad.write_bytes(b"PK nonsense")
        monkeypatch.setattr(sources, "_pip_download", lambda package, folder: bad)
        with pytest.raises(PeftuError, match="the wheel is truncated or damaged"):
            fetch_wheel_member("rows==1.0", "rows/a.bin", SHA, tmp_path / "a.bin")

    def test_pip_says_why(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        said = "WARNING: retrying\nERROR: No matching distribution found for rows==1.0\n"
        failed = subprocess.CompletedProcess([], 1, "", said)
        monkeypatch.setattr(sources.subprocess, "run", lambda *_, **__: failed)
        with pytest.raises(PeftuError) as caught:
            fetch_wheel_member("rows==1.0", "rows/a.bin", SHA, tmp_path / "a.bin")
        assert "rows==1.0: cannot be downloaded (No matching distribution found for rows==1.0) — check" in str(
            caught.value
        )
        assert "\n" not in str(caught.value)

    def test_a_full_disk_under_pip(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        failed = subprocess.CompletedProcess([], 1, "", "ERROR: [Errno 28] No space left on device\n")
        monkeypatch.setattr(sources.subprocess, "run", lambda *_, **__: failed)
        with pytest.raises(PeftuError, match="no space left on disk"):
            fetch_wheel_member("rows==1.0", "rows/a.bin", SHA, tmp_path / "a.bin")

    def test_an_installed_distribution_is_enough(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        site = tmp_path / "site"
        (site / "rows-1.0.dist-info").mkdir(parents=True)
        (site / "rows").mkdir()
        (site / "rows" / "a.bin").write_bytes(CONTENT)
        (site / "rows-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: rows\nVersion: 1.0\n")
        (site / "rows-1.0.dist-info" / "RECORD").write_text("rows/a.bin,,\nrows/gone.bin,,\n")
        found = importlib.metadata.PathDistribution(site / "rows-1.0.dist-info")
        monkeypatch.setattr(importlib.metadata, "distribution", lambda name: found)
        asked = []

        def offline(package: str, folder: Path) -> Path:
            asked.append(package)
            raise PeftuError("offline")

        monkeypatch.setattr(sources, "_pip_download", offline)
        assert fetch_wheel_member("rows==1.0", "rows/a.bin", SHA, tmp_path / "a.bin").read_bytes() == CONTENT
        assert not asked
        for package, member in (("rows==1.1", "rows/a.bin"), ("rows==1.0", "rows/gone.bin"), ("rows==1.0", "no")):
            with pytest.raises(PeftuError, match="offline"):
                fetch_wheel_member(package, member, SHA, tmp_path / "b.bin")


@pytest.mark.parametrize(
    ("code", "said"),
    [(errno.ENOSPC, "no space left on disk — free some"), (errno.EACCES, "cannot be written — mend its rights")],
)
def test_a_disk_that_takes_no_more(tmp_path: Path, code: int, said: str) -> None:
    with pytest.raises(PeftuError, match=f"{tmp_path}: {said}"), sources.writing_to(tmp_path):
        raise OSError(code, "told")


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PeftuError, match="cannot be written"), sources.writing_to(tmp_path / "file"):
        pass


def test_other_faults_keep_their_traceback(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="told"), sources.writing_to(tmp_path):
        raise OSError(errno.EIO, "told")
