"""The store beside a plain dict, over any order of adding, deleting, tidying up and opening again."""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from torch import Tensor

from peftu.errors import PeftuError
from peftu.store import APPROVED, QUARANTINED, REVOKED, AdapterStore, Collection, Status, recipe, shards

torch.set_num_threads(1)

WIDTH = 3
KINDS = [Collection("lora@base", seed, "base", "sha256:0", WIDTH, recipe(seed=seed)) for seed in (0, 1)]
ELSEWHERE = "memory://of-the-machine"
USERS = ["anna-of-the-north", "ben-by-the-river", "carl/../../etc", "dörte \N{WHITE SMILING FACE} \n", "x" * 300]


def same_bits(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.view(torch.int32), other.view(torch.int32))


@settings(max_examples=30, deadline=None)
@given(
    numbers=hnp.arrays(np.uint32, st.tuples(st.integers(1, 4), st.integers(1, 6)), elements=st.integers(0, 2**32 - 1)),
    keys=st.lists(st.text(max_size=20).filter(lambda text: text.isprintable()), min_size=4, max_size=4, unique=True),
)
def test_any_bits_under_any_keys_come_back(numbers: np.ndarray, keys: list[str]) -> None:
    """Subnormals and negative zeros included, NaN and infinities refused; whatever a user is called."""
    rows = torch.from_numpy(numbers.view(np.float32).copy())
    keys = keys[: len(rows)]
    kind = Collection("m", 0, "b", "f", rows.shape[1], "{}")
    with tempfile.TemporaryDirectory() as folder:
        with AdapterStore(Path(folder), create=True) as store:
            if not rows.isfinite().all():
                with pytest.raises(PeftuError, match="not finite"):
                    store.add(kind, keys, rows, [1] * len(keys))
                assert not store.collections()
                rows = rows.nan_to_num()
            store.add(kind, keys, rows, [1] * len(keys))
            assert same_bits(store.get(kind, keys), rows)
        with AdapterStore(Path(folder)) as store:
            assert store.keys(kind) == sorted(keys)
            assert same_bits(store.get(kind, keys[::-1]), rows.flip(0))


@dataclass
class Kept:
    """One version, as it ought to be."""

    row: Tensor
    status: Status = APPROVED


class StoreAgainstDict(RuleBasedStateMachine):
    """A store and what it ought to hold: of each method and user the versions, by number."""

    @initialize()
    def start(self) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr("peftu.store.deletion.MANY", 4)
        self.patch.setattr(os, "fsync", lambda _: None)  # a disk under load takes seconds
        self.patch.setattr(shards, "SHARD_BYTES", 3 * 4 * WIDTH)
        self.folder = Path(tempfile.mkdtemp())
        self.store = AdapterStore(self.folder, create=True)
        self.held: dict[tuple[int, str], dict[int, Kept]] = {}
        self.buried: list[tuple[str, bytes]] = []  # deleted, bytes may still be there
        self.home = "here"
        self.numbers: dict[tuple[int, str], int] = {}  # the last version, since the bytes of those before it went
        self.stamp = 0

    def fresh(self, count: int) -> Tensor:
        """Returns rows that no other call returned, so that their bytes can be searched for."""
        self.stamp += 1
        return torch.rand(count, WIDTH, generator=torch.Generator().manual_seed(self.stamp))

    @rule(
        kind=st.integers(0, 1),
        users=st.lists(st.sampled_from(USERS), min_size=1, max_size=4, unique=True),
        status=st.sampled_from([APPROVED, APPROVED, QUARANTINED]),
    )
    def add(self, kind: int, users: list[str], status: Status) -> None:
        rows = self.fresh(len(users))
        self.store.add(KINDS[kind], users, rows, [1] * len(users), status, {"stamp": self.stamp})
        for user, row in zip(users, rows, strict=True):
            number = self.numbers[kind, user] = self.numbers.get((kind, user), 0) + 1
            self.held.setdefault((kind, user), {})[number] = Kept(row, status)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), status=st.sampled_from([APPROVED, QUARANTINED, REVOKED]))
    def mark(self, data: st.DataObject, status: Status) -> None:
        kind, user = data.draw(st.sampled_from(sorted(self.held)))
        number = data.draw(st.sampled_from([*self.held[kind, user], 99]))
        if number == 99:
            with pytest.raises(PeftuError, match="no version 99"):
                self.store.mark(KINDS[kind], user, number, status)
        else:
            self.store.mark(KINDS[kind], user, number, status)
            self.held[kind, user][number].status = status

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def roll_back(self, data: st.DataObject) -> None:
        kind, user = data.draw(st.sampled_from(sorted(self.held)))
        versions = self.held[kind, user]
        approved = [number for number, kept in versions.items() if kept.status == APPROVED]
        target = data.draw(st.sampled_from([None, *versions]))
        if (len(approved) < 2) if target is None else (target not in approved):
            with pytest.raises(PeftuError, match="no approved version"):
                self.store.rollback(KINDS[kind], user, target)
            return
        target = approved[-2] if target is None else target
        assert self.store.rollback(KINDS[kind], user, target) == target
        for number in versions:
            if number > target:
                versions[number].status = REVOKED

    @rule(user=st.sampled_from(USERS))
    def delete(self, user: str) -> None:
        gone = [place for place in self.held if place[1] == user]
        assert (self.store.delete(user) > 0) == bool(gone)
        self.buried += [(user, kept.row.numpy().tobytes()) for place in gone for kept in self.held.pop(place).values()]

    @rule()
    def gc(self) -> None:
        assert self.store.gc() == len(self.buried)
        self._buried_are_gone()

    def _buried_are_gone(self) -> None:
        files = [path.read_bytes() for path in self.folder.rglob("*") if path.is_file()]
        everything = b"\0".join([*files, *map(MemoryFileSystem().cat_file, MemoryFileSystem().find(ELSEWHERE))])
        living = {user for _, user in self.held}
        for user, secret in self.buried:
            assert secret not in everything
            assert user in living or user.encode() not in everything
        assert self.store.gc() == 0
        self.buried = []
        self.numbers = {place: max(versions) for place, versions in self.held.items()}

    @rule(home=st.sampled_from(["here", ELSEWHERE]))
    def move(self, home: str) -> None:
        self.store.pack(home=home)
        if home == "here":
            assert not MemoryFileSystem().find(ELSEWHERE)
        if home != self.home:  # every shard is written anew, without what is deleted
            self.home = home
            self._buried_are_gone()

    @rule()
    def open_again(self) -> None:
        self.store.close()
        self.store = AdapterStore(self.folder)

    @precondition(lambda self: self.held)
    @rule()
    def verify(self) -> None:
        assert self.store.verify() == sum(map(len, self.held.values()))

    @invariant()
    def holds_what_it_ought_to(self) -> None:
        if not hasattr(self, "held"):
            return
        for number in sorted({kind for kind, _ in self.held}):
            answering: dict[str, Kept] = {}
            for user in USERS:
                versions = self.held.get((number, user), {})
                found = self.store.versions(KINDS[number], user)
                kept = [(n, kept.status, shards.checksum(kept.row)) for n, kept in reversed(versions.items())]
                assert [(version.number, version.status, version.checksum) for version in found] == kept
                assert all(version.provenance for version in found)
                approved = [kept for kept in versions.values() if kept.status == APPROVED]
                if approved:
                    answering[user] = approved[-1]
                else:
                    with pytest.raises(PeftuError, match="no module"):
                        self.store.get(KINDS[number], [user])
            assert self.store.keys(KINDS[number]) == sorted(answering)
            assert self.store.missing(KINDS[number], USERS) == set(USERS) - set(answering)
            rows = torch.stack([kept.row for kept in answering.values()]) if answering else torch.empty(0, WIDTH)
            assert same_bits(self.store.get(KINDS[number], list(answering)), rows)
            newest = {key: version.checksum for key, version in self.store.answering(KINDS[number], USERS).items()}
            assert newest == {user: shards.checksum(kept.row) for user, kept in answering.items()}

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            self.patch.undo()
            shutil.rmtree(self.folder)
            MemoryFileSystem.store.clear()


TestStore = StoreAgainstDict.TestCase
TestStore.settings = settings(max_examples=25, stateful_step_count=12, deadline=None)
