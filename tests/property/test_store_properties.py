"""The store beside a plain dict, over any order of adding, deleting, tidying up and opening again."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from torch import Tensor

from peftu.errors import PeftuError
from peftu.store import AdapterStore, Collection, recipe

torch.set_num_threads(1)

WIDTH = 3
KINDS = [Collection("lora@base", seed, "base", "sha256:0", WIDTH, recipe(seed=seed)) for seed in (0, 1)]
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


class StoreAgainstDict(RuleBasedStateMachine):
    """A store and what it ought to hold."""

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.store = AdapterStore(self.folder, create=True)
        self.held: dict[tuple[int, str], Tensor] = {}
        self.buried: list[tuple[str, bytes]] = []  # deleted, bytes may still be there
        self.stamp = 0

    def fresh(self, count: int) -> Tensor:
        """Returns rows that no other call returned, so that their bytes can be searched for."""
        self.stamp += 1
        return torch.rand(count, WIDTH, generator=torch.Generator().manual_seed(self.stamp))

    @rule(kind=st.integers(0, 1), users=st.lists(st.sampled_from(USERS), min_size=1, max_size=4, unique=True))
    def add(self, kind: int, users: list[str]) -> None:
        rows = self.fresh(len(users))
        self.store.add(KINDS[kind], users, rows, [1] * len(users))
        self.held |= {(kind, user): row for user, row in zip(users, rows, strict=True)}

    @rule(user=st.sampled_from(USERS))
    def delete(self, user: str) -> None:
        gone = [place for place in self.held if place[1] == user]
        assert (self.store.delete(user) > 0) == bool(gone)
        self.buried += [(user, self.held.pop(place).numpy().tobytes()) for place in gone]

    @rule()
    def gc(self) -> None:
        self.store.gc()
        everything = b"\0".join(path.read_bytes() for path in self.folder.rglob("*") if path.is_file())
        living = {user for _, user in self.held}
        for user, secret in self.buried:
            assert secret not in everything
            assert user in living or user.encode() not in everything
        assert self.store.gc() == 0
        self.buried = []

    @rule()
    def open_again(self) -> None:
        self.store.close()
        self.store = AdapterStore(self.folder)

    @precondition(lambda self: self.held)
    @rule()
    def verify(self) -> None:
        assert self.store.verify() == len(self.held)

    @invariant()
    def holds_what_it_ought_to(self) -> None:
        if not hasattr(self, "held"):
            return
        for number in sorted({kind for kind, _ in self.held}):
            own = {user: row for (kind, user), row in self.held.items() if kind == number}
            assert self.store.keys(KINDS[number]) == sorted(own)
            assert self.store.missing(KINDS[number], USERS) == set(USERS) - set(own)
            assert same_bits(self.store.get(KINDS[number], list(own)), torch.stack(list(own.values())))
        for user in USERS:
            if (0, user) not in self.held:
                with pytest.raises(PeftuError):
                    self.store.get(KINDS[0], [user])

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.folder)


TestStore = StoreAgainstDict.TestCase
TestStore.settings = settings(max_examples=25, stateful_step_count=12, deadline=None)
