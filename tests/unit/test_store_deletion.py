"""What a deletion must withstand: a killed process, a folder that became read-only, readers that do not end."""

import multiprocessing
import os
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import torch
from stores import ANNA, BEN, KIND, OTHER, WIDTH, bytes_of, rows, save_two

from peftu.errors import PeftuError
from peftu.store import AdapterStore, Collection, shards

torch.set_num_threads(1)

NOBODY = 65534


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_two(tmp_path)


def in_another_process(work: Callable[[], object]) -> int | None:
    """Returns the exit code of a process that does something, whatever it leaves open."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(60)
    return process.exitcode


def above(folder: Path) -> list[Path]:
    """The folders that pytest made for a test's."""
    return [parent for parent in folder.parents if parent.name.startswith(("pytest-", "popen-", "test_"))]


def delete_and_die(folder: Path) -> None:
    def work() -> None:
        AdapterStore(folder).delete(ANNA)
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_another_process(work) == -signal.SIGKILL


@pytest.mark.parametrize("shared_memory", [True, False], ids=["with shm", "without shm"])
def test_who_was_deleted_before_a_kill_does_not_answer_where_nobody_may_write(
    folder: Path, shared_memory: bool
) -> None:
    """The deletion stands in the index's log alone: the log is read, or nothing is."""
    delete_and_die(folder)
    assert (folder / "index.sqlite-wal").stat().st_size
    if not shared_memory:
        (folder / "index.sqlite-shm").unlink()
    before = {path: path.stat().st_mode for path in [*folder.rglob("*"), folder, *above(folder)]}
    for path in before:
        path.chmod(0o755 if path in folder.parents else 0o555)

    def look() -> None:
        if os.geteuid() == 0:
            os.setuid(NOBODY)
        try:
            with AdapterStore(folder) as store:
                seen = store.keys(KIND) == [BEN] and store.missing(KIND, [ANNA]) == {ANNA}
                seen = seen and torch.equal(store.get(KIND, [BEN]), rows(2)[1:])
        except PeftuError as error:
            seen = not shared_memory and "a log that cannot be read without writing" in str(error)
        os._exit(0 if seen else 1)

    try:
        assert in_another_process(look) == 0
    finally:
        for path, mode in before.items():
            path.chmod(mode)


def test_a_reader_that_may_not_write_sees_what_others_write(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *_: False)
        reader = AdapterStore(folder)
        assert reader.keys(KIND) == sorted([ANNA, BEN])
    with AdapterStore(folder) as other:
        other.delete(ANNA)
        assert reader.keys(KIND) == [BEN]
        other.gc()
        assert torch.equal(reader.get(KIND, [BEN]), rows(2)[1:])
    assert reader.missing(KIND, [ANNA]) == {ANNA}
    reader.close()


def test_what_a_killed_process_had_hidden_is_counted_when_it_is_erased(folder: Path) -> None:
    delete_and_die(folder)
    with AdapterStore(folder) as store:
        assert store.erase(ANNA) == 1
        assert store.erase(ANNA) == 0
    assert ANNA.encode() not in bytes_of(folder)
    assert rows(1).numpy().tobytes() not in bytes_of(folder)


def test_no_deletion_succeeds_beside_a_reader_that_keeps_the_log(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peftu.store.index.PATIENCE", 0.05)
    place = folder / "index.sqlite"
    with closing(sqlite3.connect(place, isolation_level=None)) as reader, AdapterStore(folder) as store:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM modules").fetchall()
        with pytest.raises(PeftuError, match=r"hidden, but still stands in the index's log.*'peftu store gc'"):
            store.erase(ANNA)
        assert store.keys(KIND) == [BEN]
        assert ANNA.encode() in bytes_of(folder)
        reader.execute("COMMIT")
        assert store.gc() == 0
        assert ANNA.encode() not in bytes_of(folder)


def test_shards_that_a_killed_gc_replaced_go_before_the_next_one_rewrites(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work() -> None:
        shards.Shards.discard = lambda self, _: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
        with AdapterStore(folder) as store:
            store.delete(ANNA)
            store.gc()

    assert in_another_process(work) == -signal.SIGKILL
    assert rows(1).numpy().tobytes() in bytes_of(folder)
    with AdapterStore(folder) as store:
        store.add(OTHER, [ANNA], rows(1, 8), [1])
        store.delete(ANNA)

        def look(*_: object) -> None:
            assert rows(1).numpy().tobytes() not in bytes_of(folder)
            raise KeyboardInterrupt

        monkeypatch.setattr("peftu.store.deletion.Collector._rewrite", look)
        with pytest.raises(KeyboardInterrupt):
            store.gc()


# --- in small pieces --------------------------------------------------------------------------------------------------


def test_large_writes_are_small_shards_and_old_large_ones_become_small(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users, many = [f"user-{place:02}" for place in range(50)], rows(50, 3)
    with AdapterStore(folder) as store:
        store.add(OTHER, users, many, [1] * 50)  # in one shard
        monkeypatch.setattr(shards, "SHARD_BYTES", 12 * 4 * WIDTH)
        monkeypatch.setattr("peftu.store.deletion.SHARD_BYTES", 12 * 4 * WIDTH)
        store.erase(users[7])
        assert len(list((folder / "shards").iterdir())) == 1 + 5
        store.add(OTHER, users, many, [1] * 50)
        assert len(list((folder / "shards").iterdir())) == 1 + 5 + 5
        untouched = set((folder / "shards").iterdir())
        store.erase(users[0])  # in one shard of each write
        assert len(untouched - set((folder / "shards").iterdir())) == 2
        assert torch.equal(store.get(OTHER, users[1:]), many[1:])
        monkeypatch.setattr(shards, "MOST_SHARDS", 3)
        store.add(OTHER, users, many, [1] * 50)
        assert torch.equal(store.get(OTHER, users), many)


def test_many_small_shards_become_few(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peftu.store.deletion.MANY", 6)
    users, many = [f"user-{place}" for place in range(9)], rows(9, 3)
    with AdapterStore(folder) as store:
        for place in range(3):
            store.add(OTHER, [users[place]], many[place : place + 1], [1])
        store.gc()
        assert len(list((folder / "shards").iterdir())) == 4  # not yet worth it
        for place in range(3, 9):
            store.add(OTHER, [users[place]], many[place : place + 1], [1])
        assert store.gc() == 0
        assert len(list((folder / "shards").iterdir())) == 1
        assert torch.equal(store.get(OTHER, users), many)
        assert torch.equal(store.get(KIND, [ANNA, BEN]), rows(2))
        assert store.verify() == 11


def test_a_large_shard_is_checked_and_rewritten_in_little_memory(tmp_path: Path) -> None:
    """Of an old store: one shard of 96 MB, in a process whose peak grows by less than half of that."""
    kind = Collection("lora@base", 0, "base", "sha256:0", 1 << 18, "{}")
    users = [str(place) for place in range(96)]
    with pytest.MonkeyPatch.context() as patch, AdapterStore(tmp_path / "modules", create=True) as store:
        patch.setattr(shards, "SHARD_BYTES", 1 << 30)
        store.add(kind, users, torch.ones(96, kind.width) * torch.arange(96.0)[:, None], [1] * 96)
    assert len(list((tmp_path / "modules" / "shards").iterdir())) == 1

    def work() -> None:
        with AdapterStore(tmp_path / "modules") as store:
            store.get(kind, users[:1])
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
            before = peak()
            whole = store.verify() == 96 and store.erase("50") == 1 and store.verify() == 95
            os._exit(0 if whole and peak() - before < 48 << 20 else 1)

    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak of memory is read where Linux tells it")
    assert in_another_process(work) == 0
    assert len(list((tmp_path / "modules" / "shards").iterdir())) == 3


def peak() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) << 10


# --- the owner's alone ------------------------------------------------------------------------------------------------


def test_only_the_owner_may_look_into_a_store(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        folder = save_two(tmp_path)
        with AdapterStore(folder) as store:
            store.erase(ANNA)
            store.add(OTHER, [ANNA], rows(1), [1])
            modes = {path: path.stat().st_mode & 0o777 for path in [folder, *folder.rglob("*")]}
            assert len(modes) == 7  # two folders, two shards, index, log, shared memory
            assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
            assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}
        (folder / "index.sqlite").chmod(0o644)  # as earlier versions left it
        folder.chmod(0o755)
        AdapterStore(folder).close()
        assert {path.stat().st_mode & 0o077 for path in (folder, folder / "index.sqlite")} == {0}
    finally:
        os.umask(before)
