"""Several readers and writers of a store at once: nobody sees half a write, and what is deleted stays deleted."""

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from stores import ANNA, BEN, KIND, OTHER, WIDTH, bytes_of, rows, save_two
from torch import Tensor

from peftu.errors import PeftuError
from peftu.store import AdapterStore
from peftu.store.index import Index
from peftu.store.shards import Shards

torch.set_num_threads(1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_two(tmp_path)


def once_before(monkeypatch: pytest.MonkeyPatch, target: Any, name: str, action: Callable[[], object]) -> None:
    """Has something done before the next call of a function, as by another process."""
    actual = getattr(target, name)

    def called(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(target, name, actual)
        action()
        return actual(*args, **kwargs)

    monkeypatch.setattr(target, name, called)


def test_gc_does_not_take_a_shard_that_is_being_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with AdapterStore(folder) as store, AdapterStore(folder) as other:
        other.delete(ANNA)
        once_before(monkeypatch, os, "fsync", other.gc)
        store.add(KIND, ["carl"], rows(1, 9), [1])
        assert torch.equal(store.get(KIND, ["carl", BEN]), torch.stack([rows(1, 9)[0], rows(2)[1]]))
        assert len(list((folder / "shards").iterdir())) == 2


def test_others_write_while_gc_rewrites_shards(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with AdapterStore(folder) as store, AdapterStore(folder) as other:
        other._index.db.execute("PRAGMA busy_timeout=0")
        store.delete(ANNA)
        once_before(monkeypatch, os, "fsync", lambda: other.add(KIND, ["carl", ANNA], rows(2, 9), [1, 1]))
        assert store.gc() == 1
        assert store.verify() == 3
        assert torch.equal(store.get(KIND, [ANNA, BEN]), torch.stack([rows(2, 9)[1], rows(2)[1]]))


@pytest.mark.parametrize("others_gc", [False, True])
@pytest.mark.parametrize("user", [BEN, "carl"])
def test_what_is_deleted_while_gc_rewrites_its_shard_goes_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch, user: str, others_gc: bool
) -> None:
    """One more is deleted from the shard that is being rewritten, or the last one; another gc may even be faster."""
    with AdapterStore(folder) as store, AdapterStore(folder) as other:
        store.add(OTHER, ["carl", "dora", ANNA], rows(3, 3), [1, 1, 1])

        def delete() -> None:
            other.delete(user)
            if others_gc:
                other.gc()

        store.delete(ANNA)
        once_before(monkeypatch, os, "fsync", delete)
        went = store.gc()
        assert went == (0 if others_gc else 3)
        assert store.verify() == 2
        for row in (rows(2)[0], rows(3, 3)[2], rows(2)[1] if user == BEN else rows(3, 3)[0]):
            assert row.numpy().tobytes() not in bytes_of(folder)
        assert len(list((folder / "shards").iterdir())) == 1


def test_a_reader_is_not_upset_by_gc_under_its_hands(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between finding the row in the index and opening the shard, another process rewrites the shard."""
    reader, other = AdapterStore(folder), AdapterStore(folder)
    opened = Shards.opened

    def late(self: Shards, name: str) -> AbstractContextManager[Any]:
        if self is reader._shards and other.keys(KIND) == sorted([ANNA, BEN]):
            other.delete(ANNA)
            other.gc()
        return opened(self, name)

    monkeypatch.setattr(Shards, "opened", late)
    assert torch.equal(reader.get(KIND, [BEN]), rows(2)[1:])
    reader.close()
    other.close()


def test_readers_may_come_and_go_while_another_writes(folder: Path) -> None:
    """No reader sees half a write: both of a pair are of one round, and a reader that leaves disturbs nobody."""
    wrong: list[str] = []
    done = threading.Event()

    def read() -> None:
        try:
            while not done.is_set():
                with AdapterStore(folder) as store:
                    for _ in range(5):
                        first, second = store.get(KIND, [ANNA, BEN])
                        if not torch.equal(second, first + 1) and float(second[0]) != float(rows(2)[1, 0]):
                            wrong.append(f"{first} {second}")
        except BaseException as error:  # noqa: BLE001
            wrong.append(repr(error))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(12):
        with AdapterStore(folder) as store:
            store.add(KIND, [ANNA, BEN], torch.stack([torch.full((WIDTH,), n) for n in (number, number + 1.0)]), [1, 1])
    done.set()
    for reader in readers:
        reader.join(60)
    assert wrong == []


def test_another_s_long_write_is_one_line(folder: Path) -> None:
    with AdapterStore(folder) as store, AdapterStore(folder) as other:
        other._index.db.execute("PRAGMA busy_timeout=0")
        with store._index.transaction(), pytest.raises(PeftuError, match=r"locked.*60 s — wait for the other process"):
            other.delete(ANNA)
        assert other.delete(ANNA) == 1
        assert store._index.db.execute("PRAGMA busy_timeout").fetchone() == (60_000,)


PAIRS = [[f"user-{writer}-{place}" for place in range(3)] for writer in range(2)]


def of_round(writer: int, number: int) -> Tensor:
    """Returns [3, width] modules of which each says in all its numbers whose it is, and of which round."""
    whose = 100.0 * writer + 10 * torch.arange(3)
    return whose[:, None] + torch.linspace(0, 1, WIDTH) * number


def write_rounds(folder: Path, writer: int, rounds: int) -> None:
    with AdapterStore(folder) as store:
        for number in range(rounds):
            users, modules = PAIRS[writer], of_round(writer, number)
            store.add(OTHER, users, modules, [number] * 3)
            if number % 3 == 2:
                store.erase(users[2])
                store.add(OTHER, users[2:], modules[2:], [number])
            if number % 4 == writer:
                store.gc()


def read_rounds(store: AdapterStore, done: threading.Event) -> None:
    while not done.is_set():
        for writer, users in enumerate(PAIRS):
            with suppress(PeftuError):  # erased at the moment; of a lock the writers hear
                modules = store.get(OTHER, users)
                number = round(float(modules[0, -1] - modules[0, 0]))
                assert torch.allclose(modules, of_round(writer, number))


@pytest.mark.parametrize("rounds", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_two_write_and_four_read_without_a_lock_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, rounds: int
) -> None:
    """All readers share one store, the writers have one each."""
    monkeypatch.setattr("peftu.store.deletion.MANY", 4)
    done, locks = threading.Event(), list[str]()
    clear = Index._clear
    monkeypatch.setattr(Index, "_clear", lambda self, error: locks.append(repr(error)) or clear(self, error))
    with AdapterStore(folder) as store, ThreadPoolExecutor(6) as pool:
        store.add(OTHER, PAIRS[0] + PAIRS[1], torch.cat([of_round(0, 0), of_round(1, 0)]), [0] * 6)
        readers = [pool.submit(read_rounds, store, done) for _ in range(4)]
        writers = [pool.submit(write_rounds, folder, writer, rounds) for writer in range(2)]
        try:
            for writer in writers:
                writer.result(200)
        finally:
            done.set()
        for reader in readers:
            reader.result(60)
        assert locks == []
        assert store.keys(OTHER) == sorted(PAIRS[0] + PAIRS[1])
        assert torch.equal(store.get(OTHER, PAIRS[1]), of_round(1, rounds - 1))


def test_a_forked_process_has_connections_of_its_own(folder: Path) -> None:
    def look(store: AdapterStore) -> None:
        same = torch.equal(store.get(KIND, [ANNA, BEN]), rows(2))
        store.add(KIND, ["carl"], rows(1, 9), [1])
        store.close()
        os._exit(0 if same else 1)

    with AdapterStore(folder) as store:
        with store._index.transaction():
            connection = store._index.db
        process = multiprocessing.get_context("fork").Process(target=look, args=(store,))
        process.start()
        process.join(60)
        assert process.exitcode == 0
        assert store._index.db is connection
        assert torch.equal(store.get(KIND, ["carl"]), rows(1, 9))
        store.delete(BEN)
        assert store.gc() == 1
