"""What is made once costs everyone who uses it what it took, once."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from peftu.lab import memo as memos
from peftu.lab.cost import Measured
from peftu.lab.memo import Memo


class Clock:
    """Time that passes only when work is done."""

    now = 0.0

    def work(self, seconds: float) -> float:
        self.now += seconds
        return seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()

    @contextmanager
    def measured() -> Iterator[Measured]:
        start, cost = found.now, Measured()
        yield cost
        cost.seconds = found.now - start

    monkeypatch.setattr(memos, "measured", measured)
    return found


def test_a_value_is_made_once_and_each_block_pays_for_it_once(clock: Clock) -> None:
    memo = Memo()
    for own in (1, 2):
        with memo.alone() as cost:
            clock.work(own)
            assert [memo.get("read", lambda: clock.work(10)) for _ in range(3)] == [10] * 3
        assert cost.seconds == own + 10
    assert clock.now == 13
    with memo.alone() as cost:
        clock.work(5)
    assert cost.seconds == 5


def test_what_a_value_needed_is_paid_for_too_and_never_twice(clock: Clock) -> None:
    memo = Memo()

    def train() -> float:
        return memo.get("read", lambda: clock.work(10)) + clock.work(100)

    asked = [("train",), ("read",), ("train", "read"), ("read", "train")]
    makers = {"train": train, "read": lambda: clock.work(10)}
    for keys in asked:
        with memo.alone() as cost:
            clock.work(1)
            for key in keys:
                memo.get(key, makers[key])
        assert cost.seconds == (111 if "train" in keys else 11)
    assert clock.now == 114


def test_a_value_that_could_not_be_made_is_made_by_the_next(clock: Clock) -> None:
    memo = Memo()

    def fails() -> float:
        clock.work(3)
        raise OSError

    with pytest.raises(OSError), memo.alone():
        memo.get("read", fails)
    with memo.alone() as cost:
        assert memo.get("read", lambda: clock.work(10)) == 10
    assert cost.seconds == 10
