"""Things that several methods of a run need: made once, and paid for by each as if it ran alone."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from peftu.lab.cost import Measured, measured

T = TypeVar("T")
Bill = dict[Hashable, float]


@dataclass
class Billed:
    """What a block used; filled in when it ends.

    Attributes:
        own: seconds of the block itself.
        bill: key -> seconds of each thing it used that others may use, too.
        peak_rss_bytes: largest resident memory while it ran.
    """

    own: float = 0.0
    bill: Bill = field(default_factory=dict)
    peak_rss_bytes: int = 0

    @property
    def seconds(self) -> float:
        """Returns all of it, as if the block had run alone."""
        return self.own + sum(self.bill.values())


@dataclass
class Memo:
    """Values by key, each made by whoever asks first.

    A bill holds what a block used and the seconds that each of them took to make, what they themselves used left out.
    """

    _made: dict[Hashable, tuple[Any, Bill]] = field(default_factory=dict)
    _open: list[Bill] = field(default_factory=list)
    _spent: float = 0.0  # seconds on everything made so far

    def get(self, key: Hashable, make: Callable[[], T], earlier: Callable[[T], float] = lambda _: 0.0) -> T:
        """Returns the value of a key, made now if nobody asked for it before; puts it on the running bill.

        Args:
            key: what it is known by.
            make: makes it.
            earlier: seconds that an earlier run spent on it, so that a run that found it costs as one that did not.
        """
        if key not in self._made:
            with self._billed() as (bill, cost):
                value = make()
            self._spent += cost.seconds
            self._made[key] = (value, {**bill, key: cost.seconds + earlier(value)})
        made, used = self._made[key]
        if self._open:
            self._open[-1].update(used)
        return cast(T, made)

    def has(self, key: Hashable) -> bool:
        """Returns whether a key has a value."""
        return key in self._made

    def put(self, key: Hashable, value: object) -> None:
        """Takes a value that was made elsewhere, and paid for there."""
        self._made[key] = (value, {})

    @contextmanager
    def alone(self) -> Iterator[Billed]:
        """Measures the block as if it ran alone: what it uses counts once, whoever had it made."""
        billed = Billed()
        with self._billed() as (bill, cost):
            yield billed
        billed.own, billed.bill, billed.peak_rss_bytes = cost.seconds, bill, cost.peak_rss_bytes

    @contextmanager
    def _billed(self) -> Iterator[tuple[Bill, Measured]]:
        """Measures the block's own seconds, less what it makes, and lists what it uses."""
        spent, bill = self._spent, Bill()
        self._open.append(bill)
        try:
            with measured() as cost:
                yield bill, cost
        finally:
            self._open.pop()
        cost.seconds -= self._spent - spent
