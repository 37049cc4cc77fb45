"""The first thing on the page: is it worth it, for whom, how sure."""

from dataclasses import dataclass

import numpy as np

from peftu.report.names import capital, plain
from peftu.report.sections.tables import bounds
from peftu.report.sections.trends import direction
from peftu.report.verdict import Verdict
from peftu.report.view import RunView
from peftu.report.words import data_size, plural, seconds
from peftu.results import USER_MAJORITY, MethodResult, Score
from peftu.system import System

_FEW_ITEMS = 20  # test items of the worst tenth; fewer say little about anybody


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
    lines = [
        ("Worth it?", verdict.text),
        ("What to do?", verdict.advice),
        ("For whom?", _for_whom(view)),
        ("How sure?", _how_sure(view)),
    ]
    return Answer(verdict, tuple((name, text) for name, text in lines if text), _notes(view), _tiles(view))


def _for_whom(view: RunView) -> str:
    best = view.verdict.method
    if best is None or view.reference is None:
        return ""
    return view.verdict.whom + _differing(view, best.system) + _worst(view, best.system)


def _differing(view: RunView, system: System) -> str:
    """Returns whether it helps those more who differ from the majority, where that is clear."""
    trends = view.judgement.trends if view.judgement else ()
    trend = next((trend for trend in trends if (trend.system, trend.by) == (system, "distance")), None)
    way = None if trend is None else direction(trend)
    if way is None:
        return ""
    if way == "grows":
        return " The further a user is from the majority, the more it helps."
    return " It helps those most who judge like the majority."


def _worst(view: RunView, system: System) -> str:
    """Returns what the worst served get, under the method and under habit, and on how few items that rests."""
    worst = view.judgement.worst if view.judgement else ()
    tail = next((tail for tail in worst if tail.system == system and tail.against.name == USER_MAJORITY), None)
    if tail is None or tail.score.mean is None:
        return ""
    unit = " %" if view.scale.metric.percent else ""
    reached, habit = (f"{view.scale.number(score.mean)}{unit}" for score in (tail.score, tail.reference))
    who = "The user" if tail.users == 1 else f"The {tail.users} users"
    rests = f" ({plural(round(tail.items), 'test item')}{' in all' if tail.users > 1 else ''})" if tail.items else ""
    few = " That is little to go by." if tail.items is not None and tail.items < _FEW_ITEMS else ""
    verb = "scores" if tail.users == 1 else "score"
    average = "" if tail.users == 1 else " on average"
    others = "the one" if tail.users == 1 else f"the {tail.users}"
    return f" {who} it serves worst{rests} {verb} {reached}{average}; {others} served worst by habit, {habit}.{few}"


def _how_sure(view: RunView) -> str:
    best = view.best
    if best is None:
        return ""
    typical = plural(float(np.nanmedian(view.testing)), "test item")
    text = f"Judged on {plural(best.users, 'user')}, each with about {typical}, over {plural(view.seeds, 'seed')}"
    text += _seeds(view, best)
    gain = view.findings.over(best, view.findings.bar)
    if gain is None or gain.gain.ci is None:
        if best.ci is None:
            return text
        low, high = map(view.scale.number, best.ci)
        return (
            f"{text} With other users of the same kind, an average from {low} to {high} is plausible for "
            f"{view.short(best)} (95 % interval)."
        )
    low, high = map(view.scale.signed, gain.gain.ci)
    text += (
        f" With other users of the same kind, an average gain anywhere from {low} to {high} {view.scale.unit} is "
        f"plausible for {view.short(best)} (95 % interval)."
    )
    if gain.detectable:
        text += (
            f" A true gain of it below {view.scale.number(gain.detectable)} {view.scale.unit} is easily missed here."
        )
    return text


def _seeds(view: RunView, best: MethodResult) -> str:
    """Returns how far apart a method's means over users were in single seeds, or that there is one seed only."""
    if view.seeds == 1:
        return ": how far another draw of training items or starting weights would move this is not known."
    if len(best.seeds) < 2:
        return "."
    low, high = (view.scale.number(edge(best.seeds)) for edge in (min, max))
    return f", in which {view.short(best)} averages from {low} to {high}."


def _notes(view: RunView) -> tuple[str, ...]:
    record = view.record
    notes = [record.error] if record.error else []
    notes += record.warnings
    if record.deleted_users:
        were = "user was" if record.deleted_users == 1 else "users were"
        told = "means and intervals are of the run as it was, what is shown of single users is without them"
        notes.append(f"{record.deleted_users} {were} deleted later: {told}")
    if record.task.content_warning:
        notes.append(f"content warning: {record.task.content_warning}")
    return tuple(notes)


def _tiles(view: RunView) -> tuple[Tile, ...]:
    """Returns the numbers of the method that leads, personal or not, and of the one that the answer speaks of."""
    best = view.best
    if best is None:
        return ()
    leader = view.leaders[0] if view.leaders else best
    leader = best if best in view.leaders else leader
    tiles = [_score_tile(view, leader, "first" if len(view.ranked) > 1 else "")]
    if leader is not best:
        tiles.append(_score_tile(view, best, "best personal method" if best.personal else ""))
    name, scale = capital(view.short(best)), view.scale
    gain = view.findings.over(best, view.findings.bar)
    if gain is not None and gain.gain.mean is not None:
        shown = "not clear" if gain.decision == "unclear" else "clear"
        between = "no interval" if gain.gain.ci is None else f"interval {bounds(scale, gain.gain, gain=True)}"
        title = f"Gain over {plain(System(view.findings.bar))}"
        tiles.append(Tile(title, f"{scale.signed(gain.gain.mean)} {scale.unit}", f"{name}; {between}; {shown}"))
    if best.helped is not None and best.unchanged is not None and best.hurt is not None and best.name != USER_MAJORITY:
        users = best.helped + best.unchanged + best.hurt
        rest = f"{name}; {best.unchanged} unchanged, {best.hurt} hurt"
        tiles.append(Tile("Users helped", f"{best.helped} of {users}", rest))
    if best.seconds_per_user is not None or best.bytes_per_user is not None:
        spent = "answering" if best.trained is False else "training and answering"
        stored = f"{name}; {data_size(best.bytes_per_user)} stored"
        tiles.append(Tile(f"A user's {spent}", seconds(best.seconds_per_user), stored))
    return tuple(tiles)


def _score_tile(view: RunView, result: MethodResult, what: str) -> Tile:
    scale = view.scale
    unit = " %" if scale.metric.percent else ""
    between = "no interval" if result.ci is None else f"interval {bounds(scale, Score(mean=None, ci=result.ci))}"
    title = f"{scale.metric.title}, {what}" if what else scale.metric.title
    return Tile(title, f"{scale.number(result.mean)}{unit}", f"{capital(view.short(result))}; {between}")
