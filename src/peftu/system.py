"""What stands on one line of a leaderboard: a method with its knobs, and the base it ran on."""

from dataclasses import dataclass
from functools import cached_property

import polars as pl

from peftu.config import outside_brackets


@dataclass(frozen=True, eq=False)
class System:
    """A method's id in runs, judgements and reports; two with one label are one.

    Attributes:
        method: with its knobs, 'lora[rank=4]', as it stands in the column ``method``.
        base: the column ``base``; None for a method without one.
    """

    method: str
    base: str | None = None

    @classmethod
    def parse(cls, label: str) -> "System":
        """Returns the system of a label 'name[key=value,…]@base' as it stands in a file; a base may hold an '@'."""
        method, *base = outside_brackets(label, "@")
        return cls(method, "@".join(base) if base else None)

    @cached_property
    def label(self) -> str:
        """Returns 'method@base', or the method alone where it has no base."""
        return f"{self.method}@{self.base}" if self.base else self.method

    @cached_property
    def name(self) -> str:
        """Returns the method's plain name: 'lora' for 'lora[rank=4]@base'."""
        return self.method.partition("@")[0].partition("[")[0]

    @cached_property
    def knobs(self) -> tuple[str, ...]:
        """Returns the knobs as they are written: 'rank=4' for 'lora[rank=4]@base'."""
        knobs = self.method.partition("[")[2].rpartition("]")[0]
        return tuple(filter(None, knobs.split(",")))

    @property
    def rows(self) -> pl.Expr:
        """Returns which rows of a frame with the columns method and base are this system's."""
        return (pl.col("method") == self.method) & pl.col("base").eq_missing(self.base)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, System) and self.label == other.label

    def __hash__(self) -> int:
        return hash(self.label)

    def __str__(self) -> str:
        return self.label
