"""The first thing on the page: is it worth it, for whom, how sure."""

from dataclasses import dataclass

import numpy as np

from peftu.report.sections.trends import direction
from peftu.report.verdict import Verdict
from peftu.report.view import RunView
from peftu.report.words import count, data_size, plural, seconds
from peftu.results import USER_MAJORITY, plain_name


@dataclass(frozen=True)
class Tile:
    """One number that a hurried reader wants."""

    title: str
    value: str
    note: str


@dataclass(frozen=True)
class Answer:
    """The answer in plain words.

    Attributes:
        verdict: tone and headline.
        lines: a question and its answer each.
        notes: what a reader must see at once.
        tiles: the numbers behind it.
    """

    verdict: Verdict
    lines: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    tiles: tuple[Tile, ...]


def answer(view: RunView) -> Answer:
    """Returns the answer to whether personalising was worth it on this run."""
    verdict = view.verdict
    lines = [("Worth it?", verdict.text), ("For whom?", _for_whom(view)), ("How sure?", _how_sure(view))]
    return Answer(verdict, tuple((name, text) for name, text in lines if text), _notes(view), _tiles(view))


def _for_whom(view: RunView) -> str:
    best = view.verdict.method
    if best is None or view.reference is None:
        return ""
    return view.verdict.whom + _differing(view, best.label) + _worst(view, best.label)


def _differing(view: RunView, label: str) -> str:
    """Returns whether it helps those more who differ from the majority, where that is clear."""
    trends = view.judgement.trends if view.judgement else ()
    trend = next((one for one in trends if (one.label, one.by) == (label, "distance")), None)
    way = None if trend is None else direction(trend)
    if way is None:
        return ""
    if way == "grows":
        return " The further a user is from the majority, the more it helps."
    return " It helps those most who judge like the majority."


def _worst(view: RunView, label: str) -> str:
    """Returns what the worst served get, under the method and under habit."""
    worst = view.judgement.worst if view.judgement else ()
    tail = next((one for one in worst if one.label == label and plain_name(one.against) == USER_MAJORITY), None)
    if tail is None or tail.score.mean is None:
        return ""
    own, habit = (view.scale.number(score.mean) for score in (tail.score, tail.reference))
    return f" The tenth of users it serves worst scores {own} on average; under habit the worst tenth scores {habit}."


def _how_sure(view: RunView) -> str:
    best = view.best
    if best is None:
        return ""
    gain = view.habit_gain(best)
    seeds = plural(view.seeds, "seed")
    typical = plural(float(np.nanmedian(view.testing)), "test item")
    text = f"Judged on {plural(best.users, 'user')}, each with about {typical}, over {seeds}."
    if gain.ci is None and best.ci is not None:
        low, high = map(view.scale.number, best.ci)
        text += f" With other users of the same kind, an average from {low} to {high} is plausible (95 % interval)."
    if gain.ci is not None:
        low, high = map(view.scale.signed, gain.ci)
        text += (
            f" With other users of the same kind, an average gain anywhere from {low} to {high} {view.scale.unit} is"
            " plausible (95 % interval)."
        )
    detectable = view.judgement.detectable if view.judgement else None
    if detectable is not None:
        text += f" True gains below {view.scale.number(detectable)} {view.scale.unit} are easily missed here."
    return text


def _notes(view: RunView) -> tuple[str, ...]:
    record = view.record
    notes = [record.error] if record.error else []
    notes += record.warnings
    if record.task.content_warning:
        notes.append(f"content warning: {record.task.content_warning}")
    return tuple(notes)


def _tiles(view: RunView) -> tuple[Tile, ...]:
    best, scale = view.best, view.scale
    if best is None:
        return ()
    low, high = map(scale.number, best.ci or (None, None))
    unit = " %" if scale.metric.percent else ""
    tiles = [Tile(scale.metric.title, f"{scale.number(best.mean)}{unit}", f"{best.label}, interval {low} to {high}")]
    gain = view.habit_gain(best)
    if gain.ci is not None:
        low, high = map(scale.signed, gain.ci)
        tiles.append(
            Tile("Gain over user-majority", f"{scale.signed(gain.mean)} {scale.unit}", f"interval {low} to {high}")
        )
        tiles.append(
            Tile("Users helped", f"{best.helped} of {best.users}", f"{best.unchanged} unchanged, {best.hurt} hurt")
        )
    if best.seconds_per_user is not None or best.bytes_per_user is not None:
        per_hour = f", {count(best.users_per_hour)} users an hour" if best.users_per_hour is not None else ""
        tiles.append(
            Tile("Cost a user", seconds(best.seconds_per_user), f"{data_size(best.bytes_per_user)} stored{per_hour}")
        )
    return tuple(tiles)
