"""How numbers are written for people."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from peftu.metrics import Metric
from peftu.results import Score

NOTHING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Scale:
    """Writes values and gains of a metric: shares as percentages, their gains in percentage points."""

    metric: Metric

    @classmethod
    def of_shares(cls) -> "Scale":
        """Returns a scale that writes any share as a percentage."""
        return cls(Metric("share", "Share", (), "rows", pl.lit(0)))

    @property
    def factor(self) -> float:
        """Returns what a value is multiplied with before it is shown."""
        return 100.0 if self.metric.percent else 1.0

    @property
    def title(self) -> str:
        """Returns the metric's name with its unit, for the head of a column."""
        return f"{self.metric.title}, %" if self.metric.percent else self.metric.title

    def number(self, value: float | None) -> str:
        """Returns '68.3', without a unit."""
        return NOTHING if value is None else f"{value * self.factor:.{self._digits}f}".replace("-", MINUS)

    def signed(self, value: float | None) -> str:
        """Returns '+7.4' or '−7.4'."""
        if value is None:
            return NOTHING
        shown = f"{value * self.factor:+.{self._digits}f}".replace("-", MINUS)
        return shown[1:] if float(shown[1:]) == 0 else shown

    def score(self, score: Score) -> str:
        """Returns '68.3 [60.4, 77.1]'."""
        if score.ci is None:
            return self.number(score.mean)
        low, high = map(self.number, score.ci)
        return f"{self.number(score.mean)} [{low}, {high}]"

    def gain(self, gain: Score | None) -> str:
        """Returns '+7.4 [+1.8, +13.1]', without an interval '+7.4'."""
        if gain is None or gain.mean is None:
            return NOTHING
        if gain.ci is None:
            return self.signed(gain.mean)
        low, high = map(self.signed, gain.ci)
        return f"{self.signed(gain.mean)} [{low}, {high}]"

    def give_or_take(self, score: Score) -> str:
        """Returns '68.3 ± 8.4': the mean with half the width of its interval."""
        mean = self.number(score.mean)
        return mean if score.ci is None else f"{mean} ± {self.number((score.ci[1] - score.ci[0]) / 2)}"

    def whole_gain(self, gain: Score) -> str:
        """Returns '+7.4 points (95 % interval +1.8 to +13.1)'."""
        if gain.ci is None:
            return f"{self.signed(gain.mean)} {self.unit} (no interval)"
        low, high = map(self.signed, gain.ci)
        turned = "" if self.metric.higher_is_better else "; + is better"
        return f"{self.signed(gain.mean)} {self.unit} (95 % interval {low} to {high}{turned})"

    @property
    def unit(self) -> str:
        """Returns what a gain is counted in."""
        if self.metric.percent:
            return "points"
        return "steps" if self.metric.name == "mae" else self.metric.title.lower()

    @property
    def _digits(self) -> int:
        return 1 if self.metric.percent else 3


def seconds(value: float | None) -> str:
    """Returns '< 1 ms', '20 ms', '0.18 s', '8.5 s', '3.2 min' or '1.5 h'."""
    if value is None:
        return NOTHING
    if value < 0.001:
        return "< 1 ms"
    if value < 0.1:
        return f"{_short(1000 * value)} ms"
    for limit, unit, size in ((120.0, "s", 1.0), (7200.0, "min", 60.0), (float("inf"), "h", 3600.0)):
        if value < limit:
            return f"{_short(value / size)} {unit}"
    raise AssertionError(value)


def data_size(value: float | None) -> str:
    """Returns '0 B', '2.3 kB', '1.2 GB' (powers of 1000)."""
    if value is None:
        return NOTHING
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{_short(value)} {unit}"


def count(value: float | None) -> str:
    """Returns '69 120', with a thin space between thousands."""
    return NOTHING if value is None else f"{value:,.0f}".replace(",", "\u202f")


def join(names: Sequence[str]) -> str:
    """Returns 'a', 'a and b' or 'a, b and c'."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def plural(number: float, noun: str) -> str:
    """Returns '1 user' or '20 users'."""
    shown = count(number)
    return f"{shown} {noun}" if shown == "1" else f"{shown} {noun}s"


def _short(value: float) -> str:
    """Returns about two significant digits, without an exponent."""
    if value >= 10 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"
