"""What the report says about one run: numbers turned into words, before they meet the page."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl

from peftu.metrics import Metric, metrics
from peftu.report.terminal import helped, ranked
from peftu.report.verdict import Verdict, verdict
from peftu.report.words import NOTHING, Scale, count, data_size, seconds
from peftu.results import REFERENCES, USER_MAJORITY, MethodResult, RunRecord, Score, plain_name
from peftu.stats import Doubles, System, UserMatrix, differences, user_matrix

_EXTREMES = 3
_PERCENT = Scale(Metric("share", "Share", (), "rows", pl.lit(0)))
_LEAKS = {
    "test_rows": "test rows",
    "text_seen_same_user": "with a text that the same user trained on",
    "text_seen_other_users": "with a text that other users trained on",
    "near_duplicates": "test texts that differ from a training text in spelling only",
    "item_overlap": "of the test items are training items of somebody",
    "context_seen": "with a context that stands in training rows",
    "user_seen": "of users with training rows",
    "later_same_user": "older than a training row of the same user",
    "later_other_users": "older than a training row of another user",
}


@dataclass(frozen=True)
class RunView:
    """One run as the template wants it; ``charts`` is ``peftu.report.charts``."""

    record: RunRecord
    scores: pl.DataFrame
    charts_module: ModuleType

    @cached_property
    def scale(self) -> Scale:
        """Returns how values of the main metric are written."""
        return Scale(metrics.get(self.record.task.main_metric))

    @cached_property
    def verdict(self) -> Verdict:
        """Returns the answer on top."""
        return verdict(self.record)

    @cached_property
    def ranked(self) -> list[MethodResult]:
        """Returns the results, best first."""
        return ranked(self.record)

    @cached_property
    def best(self) -> MethodResult | None:
        """Returns the method that the answer speaks of, else the best personal one."""
        personal = (result for result in self.ranked if result.personal and result.mean is not None)
        return self.verdict.method or next(personal, None)

    @property
    def best_score(self) -> str:
        """Returns the best personal method's score."""
        return self.scale.number(self.best.mean) if self.best else NOTHING

    @property
    def best_gain(self) -> str:
        """Returns the best personal method's gain over user-majority."""
        return self.scale.gain(self.best.gain.get(USER_MAJORITY)) if self.best else NOTHING

    @property
    def warnings(self) -> list[str]:
        """Returns what a reader must see at once."""
        own = [self.record.error] if self.record.error else []
        warned = [f"content warning: {self.record.task.content_warning}"] if self.record.task.content_warning else []
        return [*own, *self.record.warnings, *warned]

    @property
    def tiles(self) -> list[dict[str, str]]:
        """Returns the four numbers that a hurried reader wants."""
        best = self.best
        if best is None:
            return []
        gain = best.gain.get(USER_MAJORITY)
        low, high = map(self.scale.number, best.ci or (None, None))
        unit = " %" if self.scale.metric.percent else ""
        tiles = [(self.scale.metric.title, f"{self.best_score}{unit}", f"{best.label}, interval {low} to {high}")]
        if gain is not None and gain.ci is not None:
            low, high = map(self.scale.signed, gain.ci)
            value = f"{self.scale.signed(gain.mean)} {self.scale.unit}"
            tiles.append(("Gain over user-majority", value, f"interval {low} to {high}"))
            tiles.append(
                ("Users helped", f"{best.helped} of {best.users}", f"{best.unchanged} unchanged, {best.hurt} hurt")
            )
        if best.seconds_per_user is not None or best.bytes_per_user is not None:
            tiles.append(("Cost a user", seconds(best.seconds_per_user), f"{data_size(best.bytes_per_user)} stored"))
        return [dict(zip(("title", "value", "note"), tile, strict=True)) for tile in tiles]

    @cached_property
    def matrix(self) -> UserMatrix:
        """Returns the main metric's scores, averaged over seeds."""
        return user_matrix(self.scores, self.scale.metric.name)

    @property
    def reference(self) -> System | None:
        """Returns the system that is user-majority."""
        return next((system for system in self.matrix.systems if plain_name(system.method) == USER_MAJORITY), None)

    @property
    def majority(self) -> float | None:
        """Returns the mean score of user-majority."""
        return next((result.mean for result in self.ranked if result.name == USER_MAJORITY), None)

    def gains(self, result: MethodResult) -> Doubles:
        """Returns [users] a method's gain over user-majority."""
        assert self.reference is not None  # noqa: S101 - asked for only where it was run
        own = self.matrix.column(System(result.method, result.base))
        return differences(own, self.matrix.column(self.reference), higher_is_better=self.scale.metric.higher_is_better)

    @property
    def charts(self) -> dict[str, str]:
        """Returns the leaderboard chart for wide and for narrow pages."""
        if all(result.mean is None for result in self.ranked):
            return {}
        draw = self.charts_module.leaderboard_chart
        return {
            "wide": draw(self.ranked, self.scale, self.majority),
            "narrow": draw(self.ranked, self.scale, self.majority, narrow=True),
        }

    @property
    def alt(self) -> dict[str, str]:
        """Returns the leaderboard chart in words."""
        lines = [f"{result.label} {self.scale.score(_own(result))}" for result in self.ranked]
        return {"leaderboard": f"{self.scale.title} with intervals. " + "; ".join(lines)}

    @property
    def references(self) -> list[str]:
        """Returns the reference methods that gains were taken over."""
        return [name for name in REFERENCES if any(name in result.gain for result in self.record.methods)]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Returns the lines of the leaderboard."""
        f1 = Scale(metrics.get("macro_f1"))
        return [
            {
                "result": result,
                "tags": _tags(result),
                **_cells(self.scale, _own(result)),
                "gains": [_cells(self.scale, self._gain(result, name), gain=True) for name in self.references],
                "helped": helped(result).replace("/", " / "),
                "macro_f1": _cells(f1, result.macro_f1),
            }
            for result in self.ranked
        ]

    def _gain(self, result: MethodResult, name: str) -> Score:
        nothing = Score(mean=None, ci=None)
        return nothing if result.name == name else result.gain.get(name, nothing)

    @cached_property
    def panels(self) -> list[dict[str, str]]:
        """Returns a panel for every method that can be compared with user-majority."""
        compared = [result for result in self.ranked if result.name != USER_MAJORITY and USER_MAJORITY in result.gain]
        shown = [result for result in compared if result.gain[USER_MAJORITY].mean is not None]
        if not shown:
            return []
        gains = [self.gains(result) for result in shown]
        domain = self.charts_module.gain_domain(np.stack(gains, axis=1), self.scale)
        return [self._panel(result, own, domain) for result, own in zip(shown, gains, strict=True)]

    def _panel(self, result: MethodResult, gains: Doubles, domain: tuple[float, float]) -> dict[str, str]:
        mean = result.gain[USER_MAJORITY]
        words = f"{result.helped} helped, {result.unchanged} unchanged, {result.hurt} hurt"
        average = f"average {self.scale.gain(mean)} {self.scale.unit}"
        training, trend = self._training(gains, domain)
        return {
            "label": result.label,
            "words": words,
            "alt": f"Gain of each user over user-majority under {result.label}: {words}, {average}",
            "gains": self.charts_module.gain_panel(gains, mean, self.scale, domain),
            "training": training,
            "training_words": trend,
            "training_alt": f"Gain against training items under {result.label}. {trend}",
        }

    def _training(self, gains: Doubles, domain: tuple[float, float]) -> tuple[str, str]:
        """Returns the chart of gains against training items, and its first and last average in words."""
        if self.training is None:
            return "", ""
        known = ~np.isnan(gains) & ~np.isnan(self.training)
        gains, n_train = gains[known], self.training[known]
        bins = self.charts_module.binned_gains(gains, n_train)
        ends = [f"{self.scale.signed(bins[end].gain)} at {bins[end].items:.0f} items" for end in (0, -1) if bins]
        words = f"on average {' → '.join(ends)}" if len(bins) > 1 else "too few users for averages"
        return self.charts_module.training_panel(gains, n_train, bins, self.scale, domain), words

    @cached_property
    def training(self) -> Doubles | None:
        """Returns [users] training items, averaged over seeds; None where they are unknown or all the same."""
        if not self.has_training:
            return None
        found = self.scores.group_by("user_id").agg(pl.col("n_train").mean()).sort("user_id")["n_train"].to_numpy()
        return None if np.nanmin(found) == np.nanmax(found) else found.astype(np.float64)

    @property
    def has_training(self) -> bool:
        """Returns whether the numbers of training items are known."""
        return "n_train" in self.scores.columns and self.scores["n_train"].null_count() < len(self.scores)

    @property
    def no_training(self) -> str:
        """Returns why there is no plot against training items."""
        if self.reference is None:
            return "user-majority was not run."
        if not self.has_training:
            return "the numbers of training items were not kept with this run."
        return f"every user has the same number of training items ({self.scores['n_train'][0]})."

    @property
    def bar_means(self) -> str:
        """Returns what one bar of a gain panel stands for."""
        users = len(self.matrix.users)
        return "one user" if users <= 200 else f"one of 200 equal slices of the {count(users)} users"

    @property
    def noise(self) -> str:
        """Returns how far a single bar is to be trusted."""
        typical = self.scores.group_by("user_id").agg(pl.col("n_test").mean()).select(pl.col("n_test").median()).item()
        return f"A user has about {count(typical)} test items a seed, so look at the shape, not at single bars."

    @property
    def people(self) -> list[dict[str, str]]:
        """Returns the users whom the best method helps most and least, by number."""
        if self.best is None or self.reference is None:
            return []
        gains = self.gains(self.best)
        order = [int(place) for place in np.argsort(-gains, kind="stable") if not np.isnan(gains[place])]
        chosen = order if len(order) <= 2 * _EXTREMES else order[:_EXTREMES] + order[-_EXTREMES:]
        own = self.matrix.column(System(self.best.method, self.best.base))
        other = self.matrix.column(self.reference)
        means = pl.col("n_train", "n_test") if self.has_training else pl.col("n_test")
        sizes = self.scores.group_by("user_id").agg(means.mean()).sort("user_id")
        return [
            {
                "number": count(place + 1),
                "n_train": count(sizes["n_train"][place]) if self.has_training else NOTHING,
                "n_test": count(sizes["n_test"][place]),
                "own": self.scale.number(own[place]),
                "other": self.scale.number(other[place]),
                "gain": self.scale.signed(gains[place]),
            }
            for place in chosen
        ]

    @property
    def totals(self) -> str:
        """Returns what the whole run cost."""
        cost = self.record.cost
        parts = [seconds(cost.seconds)] if cost.seconds is not None else []
        parts += [f"{data_size(cost.peak_rss_bytes)} peak memory"] if cost.peak_rss_bytes is not None else []
        parts += [f"{data_size(cost.bytes)} of personal modules"] if cost.bytes is not None else []
        return ", ".join(parts)

    @property
    def trust(self) -> list[tuple[str, str]]:
        """Returns what weighs on the numbers: leakage, exclusions, rows without a score, the data's terms."""
        record = self.record
        excluded = "; ".join(f"{count(users)} {reason}" for reason, users in record.excluded_users.items())
        cut = "; ".join(f"{count(texts)} by {base}" for base, texts in record.truncated_texts.items() if texts)
        unscored = f"{count(record.unscored)} of {count(record.scored + record.unscored)} test rows, over all methods"
        facts = [
            ("Split", f"{record.regime} · {record.split}"),
            ("Seen in training", "; ".join(_leaks(record.leakage)) or "not reported"),
            ("Users left out", excluded or "none"),
            ("Rows not scored", unscored + ("; they are in no average" if record.unscored else "")),
            ("Texts cut short", cut or "none"),
            ("Data", f"{record.task.title}, version {record.task.version}, licence {record.task.licence}"),
            ("Citation", record.task.citation),
        ]
        if record.task.superseded_by:
            facts.append(("Superseded", f"use {record.task.superseded_by} instead"))
        return facts

    @property
    def made(self) -> list[tuple[str, str]]:
        """Returns where the numbers come from."""
        record, where = self.record, self.record.environment
        packages = ", ".join(f"{name} {version}" for name, version in sorted(where.packages.items()))
        return [
            ("Run", f"{record.run}, {record.status}, {record.created:%Y-%m-%d %H:%M} UTC"),
            ("User table", record.hashes.data),
            *((f"Split, seed {seed}", digest) for seed, digest in record.hashes.splits.items()),
            *((f"Base {name}", fingerprint) for name, fingerprint in record.hashes.bases.items()),
            ("Machine", f"{where.platform}, {where.cpu}, {where.cores} cores, Python {where.python}"),
            ("Packages", packages),
            ("Source revision", where.git or "installed package"),
        ]

    @property
    def spec(self) -> str:
        """Returns the resolved specification as JSON."""
        return json.dumps(self.record.spec, indent=2, ensure_ascii=False)

    @property
    def notes(self) -> str:
        """Returns the notes of the methods as JSON; empty without any."""
        notes = {result.label: result.notes for result in self.ranked if result.notes}
        return json.dumps(notes, indent=2, ensure_ascii=False) if notes else ""


def _own(result: MethodResult) -> Score:
    return Score(mean=result.mean, ci=result.ci)


def _cells(scale: Scale, score: Score, *, gain: bool = False) -> dict[str, str]:
    write = scale.signed if gain else scale.number
    bounds = "" if score.ci is None else f"{write(score.ci[0])} to {write(score.ci[1])}"
    return {"mean": write(score.mean), "ci": bounds}


def _tags(result: MethodResult) -> str:
    """Returns what a reader must weigh beside a method's number."""
    scopes = {"none": "no parameters", "global": "shared", "user": "personal", "both": "shared + personal"}
    tags = [scopes[result.scope]] if result.scope else []
    tags += ["sees other users' labels"] if result.uses_others_labels else []
    tags += [f"{count(result.unscored)} rows not scored"] if result.unscored else []
    return " · ".join(tags)


def _leaks(leakage: Mapping[str, Any]) -> list[str]:
    """Returns a leakage report in words; reports of several seeds are averaged."""
    reports = [report for report in leakage.values() if isinstance(report, Mapping)] or [leakage]
    words = []
    for key in dict.fromkeys(key for report in reports for key in report):
        values = [float(report[key]) for report in reports if isinstance(report.get(key), int | float)]
        if not values:
            continue
        mean = sum(values) / len(values)
        share = all(isinstance(report.get(key), float) for report in reports)
        name = _LEAKS.get(key, key.replace("_", " "))
        words.append(f"{_PERCENT.number(mean)} % {name}" if share else f"{count(mean)} {name}")
    return words
