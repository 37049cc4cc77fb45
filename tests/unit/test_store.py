"""The store commits whole or not at all, forgets when told to, and never guesses."""

import errno
import multiprocessing
import os
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from stores import ANNA, BEN, KIND, MADE, OTHER, WIDTH, bytes_of, rows, save_two

from peftu.errors import PeftuError
from peftu.store import APPROVED, EVERYONE, QUARANTINED, AdapterStore, Collection, shards
from peftu.store.index import Index
from peftu.store.shards import Matrix

torch.set_num_threads(1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_two(tmp_path)


def test_what_is_put_is_got_back(folder: Path) -> None:
    with AdapterStore(folder) as store:
        assert store.collections() == [KIND]
        assert store.keys(KIND) == sorted([ANNA, BEN])
        assert torch.equal(store.get(KIND, [BEN, ANNA, BEN]), rows(2)[[1, 0, 1]])
        assert store.get(KIND, []).shape == (0, WIDTH)
        assert store.verify() == 2


def test_the_newest_version_wins(folder: Path) -> None:
    with AdapterStore(folder) as store:
        store.add(KIND, [BEN], rows(1, 5), [9])
        store.add(OTHER, [ANNA, EVERYONE], rows(2, 6), [9, 9])
        assert torch.equal(store.get(KIND, [ANNA, BEN]), torch.stack([rows(2)[0], rows(1, 5)[0]]))
        assert torch.equal(store.get(OTHER, [EVERYONE, ANNA]), rows(2, 6)[[1, 0]])
        assert store.collections() == [KIND, OTHER]
        assert store.keys(OTHER) == [EVERYONE, ANNA]


def test_of_a_shard_the_asked_rows_are_read_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store of many users is not read whole for one of them; neighbours are read at one go."""
    users, many = [f"user {place}" for place in range(50)], rows(50, 3)
    read: list[tuple[int, int]] = []
    ahead = Matrix.ahead

    def counted(self: Matrix, first: int, last: int) -> None:
        read.append((first, last))
        ahead(self, first, last)

    with AdapterStore(folder) as store:
        store.add(OTHER, users, many, [1] * 50)
        monkeypatch.setattr(Matrix, "ahead", counted)
        assert torch.equal(store.get(OTHER, [users[7]]), many[7:8])
        assert read == [(7, 8)]
        read.clear()
        wanted = [30, 4, 3, 49, 5, 4]
        assert torch.equal(store.get(OTHER, [users[place] for place in wanted]), many[wanted])
        assert sorted(read) == [(3, 6), (30, 31), (49, 50)]
        read.clear()
        assert store.verify() == 52
        assert read == [(0, 2), (0, 50)]
        read.clear()
        store.delete(users[9])
        assert store.gc() == 1
        assert read == [(0, 9), (10, 50)]


def test_those_without_a_module_are_named(folder: Path) -> None:
    with AdapterStore(folder) as store:
        assert store.missing(KIND, ["carl", ANNA, EVERYONE, ANNA, "carl"]) == {"carl", EVERYONE}
        assert store.missing(KIND, []) == set()
        store.delete(ANNA)
        assert store.missing(KIND, [ANNA, BEN]) == {ANNA}
        with pytest.raises(PeftuError, match="no modules of lora@base, seed 1"):
            store.missing(OTHER, [ANNA])


@pytest.mark.parametrize("key", ["nobody", EVERYONE, "Anna <anna@example.org>", "' OR 1=1 --"])
def test_an_unknown_user_is_an_error_without_the_key_in_it(folder: Path, key: str) -> None:
    with AdapterStore(folder) as store:
        with pytest.raises(PeftuError, match="asked user has no module in lora@base") as caught:
            store.get(KIND, [key])
        assert not key or key not in str(caught.value)
        with pytest.raises(PeftuError, match="user 2 of 2 has no module"):
            store.get(KIND, [ANNA, key])


def test_looking_changes_nothing(folder: Path) -> None:
    """Asking for a collection that is not there must not make one."""
    before = bytes_of(folder)
    with AdapterStore(folder) as store:
        with pytest.raises(PeftuError, match="no modules of lora@base, seed 1"):
            store.get(OTHER, [ANNA])
        with pytest.raises(PeftuError, match="no modules of lora@base, seed 1"):
            store.keys(OTHER)
        assert store.collections() == [KIND]
        with pytest.raises(PeftuError):
            store.get(KIND, ["nobody"])
    assert bytes_of(folder) == before


@pytest.mark.parametrize("change", [{"fingerprint": "sha256:1"}, {"width": WIDTH + 1}, {"recipe": "{}"}])
def test_modules_of_another_base_or_layout_do_not_mix(folder: Path, change: dict[str, Any]) -> None:
    other = Collection(**{**vars(KIND), **change})
    with AdapterStore(folder) as store:
        with pytest.raises(PeftuError, match=r"lora@base was stored for another base"):
            store.add(other, [ANNA], torch.ones(1, other.width), [1])
        with pytest.raises(PeftuError, match="another base"):
            store.get(other, [ANNA])
        assert torch.equal(store.get(KIND, [ANNA, BEN]), rows(2))


def test_rows_must_fit() -> None:
    with pytest.raises(ValueError, match="rows are"):
        AdapterStore.add(None, KIND, [ANNA], torch.ones(1, WIDTH + 1), [1])  # type: ignore[arg-type]


# --- interrupted ------------------------------------------------------------------------------------------------------


def interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("moment", ["numbers", "sync", "transaction", "second row"])
@pytest.mark.parametrize("kind", [KIND, OTHER], ids=["known collection", "new collection"])
def test_an_interrupted_write_is_never_seen(
    folder: Path, monkeypatch: pytest.MonkeyPatch, moment: str, kind: Collection
) -> None:
    store = AdapterStore(folder)
    run = Index.sql

    def interrupted(self: Index, statement: str, values: tuple[object, ...] = ()) -> sqlite3.Cursor:
        if statement.startswith("INSERT INTO modules") and "carl" in values:
            raise KeyboardInterrupt
        return run(self, statement, values)

    with monkeypatch.context() as patch:
        if moment == "numbers":
            sums = iter([b"\0" * WIDTH * 4] * 3)  # of both checksums, and of the first row that is written
            patch.setattr(shards, "stored", lambda _: next(sums, None) or interrupt())
        elif moment == "sync":
            patch.setattr(os, "fsync", interrupt)
        elif moment == "transaction":
            patch.setattr(time, "time", interrupt)
        else:
            patch.setattr(Index, "sql", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.add(kind, [ANNA, "carl"], rows(2, 9), [1, 1])
    assert len(list((folder / "shards").iterdir())) == 1  # nothing is left behind
    for reader in (store, AdapterStore(folder)):
        assert reader.collections() == [KIND]
        assert reader.keys(KIND) == sorted([ANNA, BEN])
        assert torch.equal(reader.get(KIND, [ANNA, BEN]), rows(2))
        assert reader.verify() == 2
    reader.close()
    store.add(kind, [ANNA, "carl"], rows(2, 9), [1, 1])  # and it may be tried again
    assert torch.equal(store.get(kind, [ANNA, "carl"]), rows(2, 9))
    store.gc()
    store.close()
    assert len(list((folder / "shards").iterdir())) == 2


def test_an_interrupt_right_after_the_commit_loses_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Index.sql

    def late(self: Index, statement: str, values: tuple[object, ...] = ()) -> sqlite3.Cursor:
        cursor = run(self, statement, values)
        if statement == "COMMIT":
            raise KeyboardInterrupt
        return cursor

    with AdapterStore(folder) as store:
        with monkeypatch.context() as patch:
            patch.setattr(Index, "sql", late)
            with pytest.raises(KeyboardInterrupt):
                store.add(KIND, ["carl"], rows(1, 9), [1])
        assert torch.equal(store.get(KIND, ["carl"]), rows(1, 9))


def _die(folder: str, moment: str) -> None:
    """Writes a shard and is killed in the middle of it, or before the commit."""
    place: tuple[Any, str] = (os, "fsync") if moment == "shard" else (time, "time")
    setattr(*place, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    AdapterStore(Path(folder)).add(KIND, ["carl"], rows(1, 9), [1])


@pytest.mark.parametrize("moment", ["shard", "transaction"])
def test_a_killed_writer_leaves_the_store_whole(folder: Path, moment: str) -> None:
    process = multiprocessing.get_context("fork").Process(target=_die, args=(str(folder), moment))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert len(list((folder / "shards").iterdir())) == 2
    (folder / "shards" / "0.safetensors.part").write_bytes(b"of an earlier version")
    with AdapterStore(folder) as store:
        assert store.keys(KIND) == sorted([ANNA, BEN])
        assert torch.equal(store.get(KIND, [ANNA, BEN]), rows(2))
        store.gc()
    assert len(list((folder / "shards").iterdir())) == 1
    assert rows(1, 9).numpy().tobytes() not in bytes_of(folder)


# --- deleted ----------------------------------------------------------------------------------------------------------


def test_a_deleted_user_is_gone_at_once_and_the_bytes_with_gc(folder: Path) -> None:
    store = AdapterStore(folder)
    store.add(OTHER, [ANNA, "carl"], rows(2, 3), [1, 1])
    store.add(OTHER, [ANNA], rows(1, 4), [1])
    secrets = [ANNA.encode(), *(row.numpy().tobytes() for row in (rows(2)[0], rows(2, 3)[0], rows(1, 4)[0]))]
    for secret in secrets:
        assert secret in bytes_of(folder)
    watcher = AdapterStore(folder)
    assert store.delete(ANNA) == 3
    for reader in (store, watcher):
        assert reader.keys(KIND) == [BEN]
        for kind in (KIND, OTHER):
            with pytest.raises(PeftuError, match="has no module"):
                reader.get(kind, [ANNA])
    assert store.delete(ANNA) == 0
    watcher.close()
    assert store.gc() == 3
    for secret in secrets:
        assert secret not in bytes_of(folder)  # while the store is open
    assert torch.equal(store.get(KIND, [BEN]), rows(2)[1:])
    assert torch.equal(store.get(OTHER, ["carl"]), rows(2, 3)[1:])
    assert store.gc() == 0
    store.close()
    for secret in secrets:
        assert secret not in bytes_of(folder)


def test_a_deleted_user_may_come_back(folder: Path) -> None:
    with AdapterStore(folder) as store:
        store.delete(ANNA)
        store.add(KIND, [ANNA], rows(1, 8), [1])
        assert torch.equal(store.get(KIND, [ANNA]), rows(1, 8))
        assert store.gc() == 1
        assert torch.equal(store.get(KIND, [ANNA, BEN]), torch.stack([rows(1, 8)[0], rows(2)[1]]))


# --- damaged ----------------------------------------------------------------------------------------------------------


def test_no_flipped_byte_changes_a_module_in_silence(folder: Path) -> None:
    (shard,) = (folder / "shards").iterdir()
    whole = shard.read_bytes()
    start = len(whole) - 2 * WIDTH * 4
    silent, said = [], []
    store = AdapterStore(folder)
    for place in range(len(whole)):
        shard.write_bytes(whole[:place] + bytes([whole[place] ^ 0x0F]) + whole[place + 1 :])
        try:
            assert torch.equal(store.get(KIND, [ANNA, BEN]), rows(2))
            silent.append(place)
        except PeftuError as error:
            said.append(str(error))
    assert all(place < start for place in silent)  # only in remarks of the header that no number depends on
    assert all(f"shards/{shard.name}: " in line and "\n" not in line for line in said)
    shard.write_bytes(whole)
    assert store.verify() == 2
    store.close()


@pytest.mark.parametrize("keep", [0, 1, 8, 60, -1])
def test_a_cut_or_missing_shard_is_one_line(folder: Path, keep: int) -> None:
    (shard,) = (folder / "shards").iterdir()
    shard.write_bytes(shard.read_bytes()[:keep])
    with AdapterStore(folder) as store, pytest.raises(PeftuError, match="not a whole shard") as caught:
        store.get(KIND, [ANNA])
    assert "\n" not in str(caught.value)
    shard.unlink()
    with AdapterStore(folder) as store:
        store.delete(ANNA)
        for look in (store.verify, store.gc):
            with pytest.raises(PeftuError, match=r"\.safetensors: is missing — restore") as caught:
                look()
            assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_store_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(PeftuError, match="no module store here"):
        AdapterStore(tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / "index.sqlite").write_bytes(b"not a database, but long enough to be looked at twice" * 30)
    with pytest.raises(PeftuError, match="not a module store") as caught:
        AdapterStore(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", [100, 4200, -200])
def test_a_damaged_index_is_one_line_or_harmless(folder: Path, place: int) -> None:
    index = bytearray((folder / "index.sqlite").read_bytes())
    index[place : place + 60] = bytes(byte ^ 0xFF for byte in index[place : place + 60])
    (folder / "index.sqlite").write_bytes(index)
    try:
        with AdapterStore(folder) as store:
            assert torch.equal(store.get(KIND, [ANNA, BEN]), rows(2))
    except PeftuError as error:
        assert "\n" not in str(error)  # noqa: PT017  (either is right)


def test_a_store_where_nobody_may_write_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    before = sorted(path.name for path in folder.iterdir())
    with AdapterStore(folder) as store:
        assert torch.equal(store.get(KIND, [ANNA, BEN]), rows(2))
        assert sorted(path.name for path in folder.iterdir()) == before
        with pytest.raises(PeftuError, match="readonly"):
            store.delete(ANNA)


def refuse_to_sync(monkeypatch: pytest.MonkeyPatch, store: AdapterStore) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)


def refuse_pages(monkeypatch: pytest.MonkeyPatch, store: AdapterStore) -> None:
    (pages,) = store._index.db.execute("PRAGMA page_count").fetchone()
    store._index.db.execute(f"PRAGMA max_page_count={pages}")


@pytest.mark.parametrize("refuse", [refuse_to_sync, refuse_pages])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, refuse: Callable[[pytest.MonkeyPatch, AdapterStore], None]
) -> None:
    with AdapterStore(folder) as store:
        refuse(monkeypatch, store)
        before = sorted(folder.rglob("*"))
        with pytest.raises(PeftuError, match=rf"^{folder}[^\n]*: no space left on disk — free some, [^\n]+$"):
            store.add(OTHER, [f"{place} {'long' * 99}" for place in range(50)], rows(50, 9), [1] * 50)
        assert sorted(folder.rglob("*")) == before
        assert store.collections() == [KIND]
        assert torch.equal(store.get(KIND, [ANNA, BEN]), rows(2))
        store.delete(ANNA)
        if refuse is refuse_to_sync:
            with pytest.raises(PeftuError, match="no space left on disk"):
                store.gc()
            assert sorted(folder.rglob("*")) == before
        assert torch.equal(store.get(KIND, [BEN]), rows(2)[1:])


@pytest.mark.parametrize("writable", [True, False])
def test_a_store_of_version_1_opens(folder: Path, monkeypatch: pytest.MonkeyPatch, writable: bool) -> None:
    with closing(sqlite3.connect(folder / "index.sqlite")) as index:
        for statement in ("ALTER TABLE modules DROP COLUMN provenance", "ALTER TABLE modules DROP COLUMN status"):
            index.execute(statement)
        for table in ("provenance", "settings"):
            index.execute(f"DROP TABLE {table}")
        index.execute("PRAGMA user_version=1")
        index.commit()
    if not writable:
        monkeypatch.setattr(os, "access", lambda *_: False)
    with AdapterStore(folder) as store:
        assert torch.equal(store.get(KIND, [ANNA, BEN]), rows(2))
        (version,) = store.versions(KIND, ANNA)
        assert (version.number, version.status, version.provenance) == (1, APPROVED, {})
        assert store.verify() == 2
        if writable:
            store.add(KIND, [ANNA], rows(1, 4), [1], QUARANTINED, {"source": "test"})
            assert torch.equal(store.get(KIND, [ANNA]), rows(1))
            store.mark(KIND, ANNA, 2, APPROVED)
            assert torch.equal(store.get(KIND, [ANNA]), rows(1, 4))
            assert store.answering(KIND, [BEN, ANNA, "nobody"])[ANNA].provenance == {"source": "test"}


def test_a_store_of_a_later_version_is_refused(folder: Path) -> None:
    with sqlite3.connect(folder / "index.sqlite") as index:
        index.execute("PRAGMA user_version=99")
    index.close()
    with pytest.raises(PeftuError, match="version 99 is newer"):
        AdapterStore(folder)


# --- senseless --------------------------------------------------------------------------------------------------------

NOT_FINITE = (float("nan"), float("inf"), float("-inf"), 1e300)


@pytest.mark.parametrize("number", NOT_FINITE)
def test_numbers_that_are_not_finite_are_not_stored(folder: Path, number: float) -> None:
    before = bytes_of(folder)
    bad = rows(3, 1).double()
    bad[1, 2] = number  # 1e300 is finite until it is stored
    with AdapterStore(folder) as store:
        with pytest.raises(PeftuError, match="lora@base: 1 of 3 modules have numbers that are not finite, none is"):
            store.add(KIND, [ANNA, BEN, "carl"], bad, [1, 1, 1])
        assert store.keys(KIND) == sorted([ANNA, BEN])
    assert bytes_of(folder) == before


def test_a_stored_module_of_numbers_that_are_not_finite_is_not_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As stores have that were written before such rows were refused."""
    with AdapterStore(folder) as store:
        with monkeypatch.context() as patch:
            patch.setattr(shards, "finite", lambda rows: torch.ones(len(rows), dtype=torch.bool))
            store.add(KIND, [BEN, "carl"], torch.stack([rows(1, 3)[0], torch.full((WIDTH,), float("nan"))]), [1, 1])
        assert torch.equal(store.get(KIND, [ANNA, BEN]), torch.stack([rows(2)[0], rows(1, 3)[0]]))
        for look in (store.verify, lambda: store.get(KIND, ["carl"])):
            with pytest.raises(PeftuError, match=r"shards/\w+\.safetensors: row 1 of lora@base has .* not finite — "):
                look()
        assert store.delete("carl") == 1
        assert store.gc() == 1
        assert store.verify() == 3  # with an earlier version


@pytest.mark.parametrize("text", ["[" * 100_000 + "]" * 100_000, "[]", "{", "", '{"method":"lora"}', "\x00"])
def test_a_recipe_that_is_none_is_one_line(text: str) -> None:
    assert KIND.made == MADE
    with pytest.raises(PeftuError, match=r"^modules of lora@base: their recipe is damaged — [^\n]+$"):
        _ = Collection(**{**vars(KIND), "recipe": text}).made


# --- private ----------------------------------------------------------------------------------------------------------


def test_keys_stand_in_no_path_and_nothing_is_pickled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something is pickled")

    for name in ("load", "loads", "dump", "dumps", "Pickler", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(torch, "save", refuse)
    with AdapterStore(folder) as store:
        store.add(KIND, ["a/b", "..", "c:\\d"], rows(3), [1, 1, 1])
        store.get(KIND, ["a/b", ANNA])
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    assert names[0] == "index.sqlite"
    assert names[1] == "shards"
    assert len(names) == 4
    for name in names[2:]:
        shard = folder / name
        assert len(shard.stem) == 32
        assert shard.suffix == ".safetensors"
        assert shard.read_bytes()[8:9] == b"{"  # safetensors: length, JSON, numbers
    assert not list(folder.parent.glob("ben*"))
