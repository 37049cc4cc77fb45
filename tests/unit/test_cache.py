"""A region that was kept is the region that was made, by whichever process; a cache that fails is a note, never an end.

Read-only folders are made of system calls that refuse: permission bits do not stop root.
"""

import errno
import io
import multiprocessing
import os
import random
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from peftu.base import cache
from peftu.base.answers import Answer
from peftu.base.cache import LIMIT, RegionCache
from peftu.base.families.family import Context
from peftu.base.model import FrozenBase
from peftu.config import RegionSpec
from peftu.errors import PeftuError
from peftu.lab.lab import Lab
from peftu.lab.progress import Silent
from peftu.testing import FAMILIES, regions_of, tiny_base, tiny_prompt, tiny_texts

torch.set_num_threads(1)

WORDS = ("no", "nor", "yes")
PATIENCE = 60  # seconds after which a test that waits has failed


class Counting:
    """A cache over one base and its texts, how often it had to compute, and what it said."""

    def __init__(self, base: FrozenBase, folder: Path, limit: int = 1 << 30) -> None:
        self.base, self.made = base, 0
        self.notes: list[str] = []
        self.cache = RegionCache(folder, limit, least=0, say=self.notes.append)
        self.before_making: Callable[[], object] = lambda: None

    def get(self, texts: int = 5, region: RegionSpec | None = None) -> Context:
        prompt, resolved, read = tiny_prompt(WORDS), self.base.region(region), tiny_texts(texts)

        def make() -> Context:
            self.made += 1
            self.before_making()
            return self.base.prefill(prompt, read, resolved)

        return self.cache.get(self.base, prompt, resolved, read, make)


def _scores(counting: Counting, context: Context) -> torch.Tensor:
    return counting.base.readout(context, torch.arange(context.count))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_kept_region_scores_bit_for_bit_as_a_made_one(family: str, tmp_path: Path) -> None:
    base = tiny_base(family)
    counting = Counting(base, tmp_path / "regions")
    for number, region in enumerate(regions_of(base), 1):
        made, kept = counting.get(region=region), counting.get(region=region)
        assert counting.made == number
        rows = torch.arange(5)
        assert torch.equal(base.readout(made, rows), base.readout(kept, rows))
        assert (made.count, made.cut, made.tokens, made.span_tokens, made.longest) == (
            (kept.count, kept.cut, kept.tokens, kept.span_tokens, kept.longest)
        )
        assert made.seconds == 0 < kept.seconds


def test_another_base_text_or_region_is_another_file(tmp_path: Path) -> None:
    first, other = Counting(tiny_base("llama"), tmp_path), Counting(tiny_base("llama", seed=1), tmp_path)
    for counting in (first, other):
        counting.get()
        counting.get(texts=4)
        counting.get(region=RegionSpec(depth=2))
        counting.get()
        assert counting.made == 3
    assert len(list(tmp_path.iterdir())) == 6


def test_equal_weights_read_in_another_way_are_another_file(tmp_path: Path) -> None:
    for change in ({}, {"rms_norm_eps": 0.5}):
        counting = Counting(tiny_base("llama"), tmp_path)
        counting.base.family.model.config.update(change)
        counting.get()
        assert counting.made == 1
    dated = Counting(tiny_base("llama"), tmp_path)
    dated.base.family.tokenizer.chat_template = "{{ messages[0].content }}!{{ messages[1].content }}?"
    dated.get()
    assert dated.made == 1
    ended = Counting(tiny_base("llama"), tmp_path)
    ended.base.family.tokenizer.bos_token = "!"  # noqa: S105
    ended.get()
    assert ended.made == 1


def test_a_large_region_is_paid_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MEMORY_BYTES", 0)
    counting = Counting(tiny_base("llama"), tmp_path)
    assert counting.get().seconds == 0 < counting.get().seconds
    assert counting.made == 1


def test_a_region_goes_with_any_text_that_it_was_read_from(tmp_path: Path) -> None:
    counting = Counting(tiny_base("llama"), tmp_path)
    counting.get(texts=4), counting.get(texts=5)
    last = tiny_texts(5)[4]
    assert last not in tiny_texts(4)
    assert counting.cache.forget([last._replace(text="of nobody")]) == 0
    assert counting.cache.forget([last]) == 1
    counting.get(texts=4), counting.get(texts=5)
    assert counting.made == 3
    (tmp_path / "damaged.safetensors").write_bytes(b"cannot tell")
    assert counting.cache.forget(["of nobody"]) == 1
    assert cache._mark(Answer(3, "of somebody")) == cache._mark("of somebody")


def test_what_an_interrupted_write_left_goes(tmp_path: Path) -> None:
    old, new = ([tmp_path / f".{age}.{kind}" for kind in ("part", "lock", "tmp")] for age in ("old", "new"))
    for path in (*old, *new):
        path.write_bytes(b"states")
    for path in old:
        os.utime(path, (0, 0))
    Counting(tiny_base("llama"), tmp_path).get()
    assert not any(path.exists() for path in old)
    assert all(path.exists() for path in new)  # somebody may be writing them


def test_names_hold_hashes_and_files_are_the_owner_s(tmp_path: Path) -> None:
    Counting(tiny_base("llama"), tmp_path / "regions").get()
    (file,) = (tmp_path / "regions").iterdir()
    key, digest, _ = file.name.split(".")
    assert len(key) == len(digest) == 64
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert tiny_texts(1)[0].text.encode() not in file.read_bytes()


@pytest.mark.parametrize("broken", [b"", b"\x08\0\0\0\0\0\0\0{}      ", None])
def test_a_broken_file_is_made_again(broken: bytes | None, tmp_path: Path) -> None:
    counting = Counting(tiny_base("llama"), tmp_path)
    made = counting.get()
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]) if broken is None else broken)
    again = counting.get()
    assert counting.made == 2
    assert [("is damaged" in note, str(tmp_path) in note) for note in counting.notes] == [(True, True)]
    assert torch.equal(made.state["kv"][1][0], again.state["kv"][1][0])
    counting.get()
    assert counting.made == 2


def test_the_least_recently_used_makes_room(tmp_path: Path) -> None:
    counting = Counting(tiny_base("llama"), tmp_path)
    counting.get(texts=4)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    counting.cache.limit = int(2.9 * size)
    counting.get(texts=5)
    counting.get(texts=4)
    counting.get(texts=6)
    assert counting.made == 3
    counting.get(texts=4)
    assert counting.made == 3
    counting.get(texts=5)
    assert counting.made == 4
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= counting.cache.limit


def test_nothing_is_kept_at_a_limit_of_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT, "0")
    counting = Counting(tiny_base("llama"), tmp_path)
    counting.cache = RegionCache(tmp_path, least=0)
    counting.get()
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv(LIMIT, "8GB")
    with pytest.raises(PeftuError, match="not a number of bytes"):
        RegionCache()


# --- a folder that cannot be used ------------------------------------------------------------------------------------


def _refuse(monkeypatch: pytest.MonkeyPatch, folder: Path, number: int) -> None:
    """Makes every change below a folder fail as on a file system that is read-only or full."""

    def refusing(call: Callable[..., Any], changes: Callable[..., bool] = lambda *_: True) -> Callable[..., Any]:
        def guarded(path: Any, *arguments: Any, **named: Any) -> Any:
            if isinstance(path, str | Path) and Path(path).is_relative_to(folder) and changes(*arguments):
                raise OSError(number, os.strerror(number), str(path))
            return call(path, *arguments, **named)

        return guarded

    for name in ("mkdir", "unlink", "utime", "chmod", "replace"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))
    monkeypatch.setattr(io, "open", refusing(io.open, lambda mode="r", *_: set("wax+") & set(mode)))
    monkeypatch.setattr(cache, "save_file", lambda _, path, **__: io.open(path, "xb"))  # noqa: SIM115, UP020


def test_a_read_only_cache_is_read_and_what_it_lacks_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "regions"
    first = Counting(tiny_base("llama"), folder)
    made = first.get()
    files = sorted(path.name for path in folder.iterdir())
    _refuse(monkeypatch, folder, errno.EROFS)
    assert torch.equal(_scores(first, first.get()), _scores(first, made))
    assert (first.made, first.notes) == (1, [])
    second = Counting(first.base, folder)
    for counting in (first, second):
        for texts in (4, 6):
            assert counting.get(texts).count == texts
    assert (first.made, second.made) == (3, 2)
    (note,) = first.notes + second.notes
    assert note.startswith(f"{folder}: Read-only file system — ")
    assert sorted(path.name for path in folder.iterdir()) == files


def test_a_damaged_file_in_a_read_only_cache_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting(tiny_base("llama"), tmp_path)
    made = counting.get()
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"")
    _refuse(monkeypatch, tmp_path, errno.EROFS)
    assert torch.equal(_scores(counting, counting.get()), _scores(counting, made))
    assert counting.made == 2


def test_a_file_where_the_folder_should_be_is_a_note(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no folder")
    counting = Counting(tiny_base("llama"), tmp_path / "cache" / "regions")
    assert counting.get().count == counting.get().count == 5
    assert (counting.made, len(counting.notes)) == (2, 1)
    assert counting.notes[0].startswith(f"{tmp_path / 'cache' / 'regions'}: Not a directory — ")


class Notes(Silent):
    """Keeps what is noted."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_a_lab_reports_a_cache_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEFTU_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").write_text("no folder")
    base, reporter = tiny_base("llama"), Notes()
    lab = Lab(reporter, [(text, None) for text in tiny_texts(5)])
    lab.regions.least = 0
    lab.add("tiny", base)
    assert lab.context("tiny", tiny_prompt(WORDS), base.region(None)).count == 5
    assert [str(tmp_path / "cache" / "regions") in note for note in reporter.notes] == [True]


def test_a_full_disk_leaves_the_value_a_note_and_no_part(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    counting = Counting(tiny_base("llama"), tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # fails a write as a full disk does, within safetensors
    try:
        made = counting.get()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())
    (note,) = counting.notes
    assert note.startswith(f"{tmp_path}: ")
    assert torch.equal(_scores(counting, counting.get()), _scores(counting, made))
    assert counting.made == 2
    counting.get()
    assert counting.made == 2


def test_a_folder_that_the_owner_made_read_only_stays_so(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    Counting(tiny_base("llama"), tmp_path).get()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o500
    tmp_path.chmod(0o755)
    Counting(tiny_base("llama"), tmp_path).get(texts=4)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_a_file_system_without_locks_keeps_regions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    counting = Counting(tiny_base("llama"), tmp_path)
    counting.get()
    counting.get()
    assert (counting.made, counting.notes) == (1, [])


# --- several processes -----------------------------------------------------------------------------------------------


def test_a_file_that_goes_before_it_is_opened_is_a_miss(tmp_path: Path) -> None:
    counting = Counting(tiny_base("llama"), tmp_path)
    counting.get()
    (file,) = tmp_path.iterdir()
    file.unlink()
    file.symlink_to("nowhere")  # is listed, and cannot be opened
    counting.get()
    assert (counting.made, counting.notes) == (2, [])
    counting.get()
    assert counting.made == 2


def test_a_file_that_goes_while_it_is_read_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/proc/self/fd").exists():
        pytest.skip("the system has no names for open files")
    counting = Counting(tiny_base("llama"), tmp_path)
    made = counting.get()

    def evicted(path: Path, **named: Any) -> Any:
        for file in tmp_path.iterdir():
            file.unlink()
        return safe_open(path, **named)

    monkeypatch.setattr(cache, "safe_open", evicted)
    assert torch.equal(_scores(counting, counting.get()), _scores(counting, made))
    assert (counting.made, counting.notes) == (1, [])


def test_a_file_that_cannot_be_mapped_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting(tiny_base("llama"), tmp_path)
    counting.get()

    def unmapped(*_: object, **__: object) -> None:
        raise RuntimeError("unable to mmap 9 bytes: Cannot allocate memory (12)\nException raised from …")

    monkeypatch.setattr(cache, "safe_open", unmapped)
    counting.get()
    assert counting.made == 2
    (note,) = counting.notes
    assert note.startswith(f"{tmp_path}: unable to mmap 9 bytes: Cannot allocate memory (12) — ")


def test_a_file_that_goes_while_room_is_made_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting(tiny_base("llama"), tmp_path)
    gone = tmp_path / "gone.gone.safetensors"
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: iter([gone, *listed(path)]))
    counting.get()
    assert counting.notes == []


def test_what_is_read_is_mapped_and_outlives_its_file(tmp_path: Path) -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("the system does not list what is mapped")
    counting = Counting(tiny_base("llama"), tmp_path)
    counting.get()
    kept = counting.get()
    before = _scores(counting, kept)
    place = kept.state["kv"][1][0].data_ptr()
    mapped = [line.split() for line in maps.read_text().splitlines() if str(tmp_path) in line]
    spans = [[int(end, 16) for end in line[0].split("-")] for line in mapped]
    assert any(start <= place < end for start, end in spans)
    (file,) = tmp_path.iterdir()
    counting.cache.limit = file.stat().st_size
    counting.get(texts=4)
    assert not file.exists()
    assert torch.equal(_scores(counting, kept), before)


def test_a_region_that_is_being_computed_is_waited_for(tmp_path: Path) -> None:
    """Two caches in threads: the lock is an open file's, so that threads exclude each other as processes do."""
    pytest.importorskip("fcntl")
    base = tiny_base("llama")
    first, second = Counting(base, tmp_path), Counting(base, tmp_path)
    computing, waiting = threading.Event(), threading.Event()

    def wait() -> None:
        computing.set()
        assert waiting.wait(PATIENCE)

    def note(text: str) -> None:
        assert "waiting" in text
        waiting.set()

    first.before_making, second.cache.say = wait, note
    thread = threading.Thread(target=first.get)
    thread.start()
    assert computing.wait(PATIENCE)
    got = second.get()
    thread.join(PATIENCE)
    assert (first.made, second.made, got.count) == (1, 0, 5)
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]


def test_a_process_that_dies_while_computing_frees_the_others(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    fork = multiprocessing.get_context("fork")
    computing, waiting = fork.Event(), fork.Event()
    counting = Counting(tiny_base("llama"), tmp_path)

    def die() -> None:
        computing.set()
        waiting.wait(PATIENCE)
        os._exit(9)

    counting.before_making = die
    process = fork.Process(target=counting.get)
    process.start()
    assert computing.wait(PATIENCE)
    counting.before_making, counting.cache.say = lambda: None, lambda _: waiting.set()
    assert counting.get().count == 5
    process.join(PATIENCE)
    assert (process.exitcode, counting.made) == (9, 1)
    counting.get()
    assert counting.made == 1


def _hammer(seed: int) -> tuple[int, list[str]]:
    """Returns how often a process had to compute, and what it said other than that it waits."""
    counting, expected, together = _forked
    draw = random.Random(seed)  # noqa: S311
    together.wait(PATIENCE)
    for _ in range(12):
        texts = draw.choice(list(expected))
        assert torch.equal(_scores(counting, counting.get(texts)), expected[texts])
    return counting.made, [note for note in counting.notes if "waiting" not in note]


_forked: Any = None  # what a process of `_hammer` was started with


def _start(*given: Any) -> None:
    global _forked
    _forked = given


def test_eight_processes_under_eviction_read_what_was_computed(tmp_path: Path) -> None:
    folder = tmp_path / "regions"
    counting = Counting(tiny_base("llama"), folder)
    expected = {texts: _scores(counting, counting.get(texts)) for texts in (3, 4, 5, 6)}
    counting.cache.limit, counting.made = sum(path.stat().st_size for path in folder.iterdir()) // 2, 0
    counting.cache._make_room()
    fork = multiprocessing.get_context("fork")
    given = (counting, expected, fork.Barrier(8))  # inherited: nothing of it can be pickled
    with ProcessPoolExecutor(8, mp_context=fork, initializer=_start, initargs=given) as pool:
        done = list(pool.map(_hammer, range(8)))
    assert [notes for _, notes in done] == [[]] * 8
    assert sum(made for made, _ in done) > 8  # or nothing was evicted
    files = list(folder.iterdir())
    assert {path.suffix for path in files} == {".safetensors"}
    assert sum(path.stat().st_size for path in files) <= counting.cache.limit
