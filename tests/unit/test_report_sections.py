"""The parts of a report: what each says, and that it is left out where there is nothing to say."""

from typing import Any

import numpy as np
import polars as pl
import pytest

from peftu.judge.shapes import (
    Comparison,
    Curve,
    CurvePoint,
    GapClosed,
    Group,
    Guarded,
    Judgement,
    Reliability,
    ReliabilityBin,
    Trend,
    TrendBin,
)
from peftu.report.blocks import Block, Facts, Pictures, Section, Table
from peftu.report.charts.gains import gain_domain
from peftu.report.charts.places import Label, place
from peftu.report.example import example_view
from peftu.report.names import capital
from peftu.report.sections import SECTIONS, sections
from peftu.report.sections.answer import answer
from peftu.report.sections.board import board
from peftu.report.sections.ceilings import ceilings
from peftu.report.sections.certainty import certainty
from peftu.report.sections.cold import cold
from peftu.report.sections.data import data
from peftu.report.sections.groups import demographics, labels
from peftu.report.sections.people import people
from peftu.report.sections.prices import cost
from peftu.report.sections.reliability import reliability
from peftu.report.sections.scores import scores
from peftu.report.sections.shifts import shifts
from peftu.report.sections.trends import distance, training
from peftu.report.sections.trust import trust
from peftu.report.view import RunView
from peftu.report.words import Scale, join, plural
from peftu.results import CostTotals, Score

VIEW = example_view(30, seeds=2)
LORA, IA3, MIXED = "lora[r=4]@smollm2", "ia3@smollm2", "mixed-head@minilm"


def view(**changes: Any) -> RunView:
    """Returns the example with another judgement."""
    assert VIEW.judgement is not None
    return RunView(VIEW.record, VIEW.scores, VIEW.judgement.model_copy(update=changes))


def score(mean: float, reach: float = 0.02) -> Score:
    return Score(mean=mean, ci=(mean - reach, mean + reach))


def found(section: Section | None, kind: type[Block]) -> Any:
    """Returns the first block of a kind."""
    assert section is not None
    return next(block for block in section.blocks if isinstance(block, kind))


def pictures(section: Section | None) -> dict[str, str]:
    """Returns title -> text alternative of every picture."""
    assert section is not None
    blocks = [block for block in section.blocks if isinstance(block, Pictures)]
    return {picture.title: picture.alt for block in blocks for picture in (*block.shown, *block.more)}


def test_an_old_run_has_only_the_parts_it_can_fill() -> None:
    old = RunView(VIEW.record.model_copy(update={"statistics": {}}), VIEW.scores.drop("n_train"))
    assert [section.anchor for section in sections(old)] == ["people", "cost", "trust", "made"]
    assert answer(old).lines[0][0] == "Worth it?"


def test_a_whole_run_has_every_part_once() -> None:
    anchors = [section.anchor for section in sections(VIEW)]
    assert len(anchors) == len(set(anchors))
    assert {"people", "distance", "training", "labels", "certainty", "scores", "cost", "data", "trust"} <= set(anchors)
    empty = RunView(VIEW.record.model_copy(update={"methods": ()}), VIEW.scores.clear())
    for make in SECTIONS:
        assert make(empty) is None or make(empty).blocks, make  # type: ignore[union-attr]


def test_answer_says_for_whom_and_how_sure() -> None:
    said = dict(answer(VIEW).lines)
    best = VIEW.verdict.method
    assert best is not None
    assert VIEW.verdict.whom in said["For whom?"]
    assert "The 3 users it serves worst (60 test items in all) score" in said["For whom?"]
    assert "little to go by" not in said["For whom?"]
    assert "Judged on 30 users, each with about 20 test items, over 2 seeds" in said["How sure?"]
    gain = VIEW.findings.over(best, "user-majority")
    assert gain is not None
    assert f"A true gain of it below {VIEW.scale.number(gain.detectable)} points" in said["How sure?"]
    trend = Trend(
        label=best.label, against="user-majority", by="distance", title="distance", users=30, correlation=0.6, p=0.001,
        bins=(),
    )  # fmt: skip
    assert "The further a user is from the majority" in dict(answer(view(trends=(trend,))).lines)["For whom?"]
    weak = trend.model_copy(update={"p": 0.2})
    assert "majority, the more" not in dict(answer(view(trends=(weak,))).lines)["For whom?"]


def test_the_board_orders_by_what_it_shows() -> None:
    lines = board(VIEW).lines
    assert [line.label for line in lines] == [result.label for result in VIEW.ranked]
    assert lines[0].name == capital(VIEW.short(VIEW.ranked[0])), "the plain name stands above the id"
    for line, result in zip(lines, VIEW.ranked, strict=True):
        assert line.cells[0] is not None
        assert line.cells[0].order == result.mean
    titles = [column.title for column in board(VIEW).columns]
    assert titles[:2] == ["Accuracy, %", "gain over each user's habit"]
    assert {len(line.cells) for line in lines} == {len(titles)}


def test_methods_are_called_better_after_correction_only() -> None:
    def title(**changes: Any) -> str:
        judgement = VIEW.judgement
        assert judgement is not None
        picture = board(view(gains=tuple(gain.model_copy(update=changes) for gain in judgement.gains))).picture
        assert picture is not None
        return picture.title

    assert title(gain=score(0.1), p_holm=0.01).endswith(
        "; 3 personal methods are clearly better than each user's habit"
    )
    assert title(gain=score(0.01), p_holm=0.01).endswith(
        "; no personal method is clearly better than each user's habit"
    )
    assert title(gain=score(0.1), p_holm=0.2).endswith("; no personal method is clearly better than each user's habit")
    assert title(gain=score(-0.1), p_holm=0.01).endswith("no personal method is clearly better than each user's habit")


def test_what_nobody_measured_is_left_out() -> None:
    """As in a file of answers that somebody brings: one system, no yardstick, no cost."""
    nothing = Score(mean=None, ci=None)
    costs = dict.fromkeys(("seconds_per_user", "bytes_per_user", "parameters_per_user", "users_per_hour"))
    unknown = {**costs, "ms_per_answer": None, "peak_rss_bytes": None, "macro_f1": nothing, "gain": {}}
    only = VIEW.record.methods[4].model_copy(update={**unknown, "helped": None, "unchanged": None, "hurt": None})
    record = VIEW.record.model_copy(update={"methods": (only,), "cost": CostTotals()})
    alone = RunView(record, VIEW.scores.filter(pl.col("method") == only.method))
    assert [column.title for column in board(alone).columns] == ["Accuracy, %"]
    picture = board(alone).picture
    assert picture is not None
    assert picture.title.startswith("LoRA (r=4) reaches ")
    assert cost(alone) is None
    assert people(alone) is None
    said = dict(answer(alone).lines)
    assert "(user-majority) was not run" in said["Worth it?"]
    assert "an average from" in said["How sure?"]


def bins(*gains: float) -> tuple[TrendBin, ...]:
    return tuple(
        TrendBin(low=place / 10, high=place / 10 + 0.1, median=place / 10 + 0.05, users=6, gain=score(gain))
        for place, gain in enumerate(gains)
    )


@pytest.mark.parametrize(
    ("rho", "p", "finding"),
    [(0.6, 0.001, "the gain grows"), (-0.6, 0.001, "the gain shrinks"), (0.6, 0.2, "no clear trend"),
     (None, None, "no clear trend")],
)  # fmt: skip
def test_trends_are_named_only_when_clear(rho: float | None, p: float | None, finding: str) -> None:
    trend = Trend(
        label=LORA, against="user-majority", by="distance", title="distance", users=30, correlation=rho, p=p,
        bins=bins(-0.05, 0.01, 0.08),
    )  # fmt: skip
    section = distance(view(trends=(trend,)))
    assert list(pictures(section)) == [f"LoRA (r=4): {finding}"]
    numbers = found(section, Pictures).numbers
    assert numbers.rows[0][1:4] == ("0.0 % to 10.0 %", "6", "\N{MINUS SIGN}5.0")
    assert training(view(trends=(trend,))) is None


def test_labels_and_groups_of_users() -> None:
    def group(by: str, value: str, gain: float, p: float | None = 0.01) -> Group:
        return Group(
            label=LORA, against="user-majority", by=by, value=value, users=12, rows=90, score=score(0.6),
            gain=score(gain), p=p, p_holm=p,
        )  # fmt: skip

    groups = (group("label", "calm", -0.1), group("label", "glad", 0.3), group("age", "old", 0.01))
    assert list(pictures(labels(view(groups=groups)))) == [
        "LoRA (r=4) clearly gains for 'glad' and clearly loses for 'calm'"
    ]
    assert pictures(demographics(view(groups=groups))) == {
        "LoRA (r=4) has no clear gain or loss": f"Gain over habit under {LORA} by age: old +1.0"
    }
    chance = tuple(one.model_copy(update={"p": 0.03, "p_holm": 0.09}) for one in groups)
    assert list(pictures(labels(view(groups=chance)))) == ["LoRA (r=4) has no clear gain or loss"]
    untested = tuple(one.model_copy(update={"p": None, "p_holm": None}) for one in groups)
    assert list(pictures(labels(view(groups=untested)))) == ["LoRA (r=4): gain by label"]
    assert labels(view(groups=groups[2:])) is None
    assert demographics(view(groups=groups[:2])) is None


def test_cold_start_finds_where_it_pays() -> None:
    def curve(label: str, *gains: float, tested: bool = True) -> Curve:
        """Returns a curve that lies so far above habit; a gain of a hundredth is not clear."""
        points = [
            CurvePoint(
                k=k, all=k == 80, users=30, score=score(0.5 + gain),
                over_habit=Comparison(
                    label=label, against="user-majority", gain=score(gain), users=30, p=0.01, p_holm=0.01,
                    detectable=0.02,
                ) if tested else None,
            )
            for k, gain in zip((0, 5, 20, 80), gains, strict=True)
        ]  # fmt: skip
        return Curve(label=label, points=tuple(points))

    habit = curve("user-majority", -0.2, 0.0, 0.0, 0.1, tested=False)
    curves = (
        habit,
        curve(LORA, 0.0, 0.01, 0.1, 0.1),
        curve(MIXED, 0.2, 0.1, 0.1, 0.2),
        curve(IA3, 0.1, 0.1, 0.1, 0.01),
    )
    section = cold(view(cold_start=curves))
    assert list(pictures(section)) == [
        "LoRA (r=4): clearly better than habit from 20 items on",
        "Mixed head: clearly better than habit from the start",
        "(IA)³: not clearly better than habit, even with all items",
    ]
    assert [row[1] for row in found(section, Pictures).numbers.rows[:4]] == ["0", "5", "20", "all"]
    untested = (curve(LORA, -0.2, 0.0, 0.1, 0.2, tested=False),)
    assert list(pictures(cold(view(cold_start=untested)))) == ["LoRA (r=4): from 30.0 to 70.0"]
    assert cold(view(cold_start=())) is None


def test_ceilings_and_the_way_to_them() -> None:
    judgement = VIEW.judgement
    assert judgement is not None
    assert judgement.ceilings
    name = judgement.ceilings[0].name
    closed = (
        GapClosed(label=LORA, ceiling=name, share=score(0.34), users=30),
        GapClosed(label=IA3, ceiling=name, share=score(0.5), users=30),
        GapClosed(label=MIXED, ceiling=name, share=Score(mean=None, ci=None), users=0),
    )
    section = ceilings(view(closed=closed))
    assert list(pictures(section)) == ["No personal method is clearly on the way to it; (IA)³ averages 50 % of it"]
    clear = tuple(gain.model_copy(update={"gain": score(0.1), "p_holm": 0.01}) for gain in judgement.gains)
    assert list(pictures(ceilings(view(closed=closed, gains=clear)))) == [
        "(IA)³ goes 50 % of the way (95 % interval 48 to 52)"
    ]
    low = judgement.ceilings[0].model_copy(update={"score": score(0.4), "name": "others-majority"})
    passed = ceilings(view(closed=(closed[0].model_copy(update={"share": score(1.2)}),), gains=clear, ceilings=(low,)))
    assert list(pictures(passed)) == ["LoRA (r=4) passes it, with 120 % of the way"]
    assert passed is not None
    assert "what most others say is no limit for one who knows the user" in passed.lead, "a ceiling passed is explained"
    assert len(found(section, Table).rows) == len(judgement.ceilings)
    assert pictures(ceilings(view(closed=()))) == {}
    assert ceilings(view(ceilings=())) is None


def test_ranks_claim_nothing_of_their_own() -> None:
    judgement = VIEW.judgement
    assert judgement is not None
    ranked = sorted(judgement.standings, key=lambda one: one.mean_rank or 0.0)
    first = capital(VIEW.name(ranked[0].system))
    assert list(pictures(certainty(VIEW))) == [f"{first} has the best mean rank, {ranked[0].mean_rank:.2f} of 6"]
    assert certainty(view(standings=judgement.standings[:1])) is None
    pairs = [block for block in certainty(VIEW).blocks if isinstance(block, Table)]  # type: ignore[union-attr]
    assert [block.summary for block in pairs] == ["", "Intervals over users and over items", "Tests of all 15 pairs"]


def test_confidence_is_judged_by_its_error() -> None:
    def believed(confidence: float, right: float) -> Reliability:
        bins = (ReliabilityBin(low=0.8, high=0.9, confidence=confidence, right=right, rows=50),)
        return Reliability(label=LORA, rows=50, error=abs(confidence - right), bins=bins)

    for confidence, right, finding in (
        (0.85, 0.6, "too sure of itself"),
        (0.85, 0.99, "not sure enough of itself"),
        (0.85, 0.83, "about as sure as it is right"),
    ):
        section = reliability(view(reliability=(believed(confidence, right),)))
        assert list(pictures(section)) == [f"LoRA (r=4): {finding}"]
    assert found(reliability(VIEW), Pictures).numbers is not None
    assert reliability(view(reliability=())) is None


def test_every_metric_has_its_direction() -> None:
    table = found(scores(VIEW), Table)
    assert "Log loss ↓" in table.head
    assert "Macro-F1, % ↑" in table.head
    assert len(table.rows) == len(VIEW.record.methods)


def test_shares_of_users_and_guards() -> None:
    guard = Guarded(label="lora+guard@smollm2", fallback="user-majority", users=30, kept=12)
    section = people(view(guards=(guard,)))
    assert section is not None
    tables = [block for block in section.blocks if isinstance(block, Table)]
    shares, guards, extremes = tables
    assert len(shares.rows) == 5
    assert guards.rows == (("LoRA, only where it pays\nlora+guard@smollm2", "each user's habit", "12 of 30"),)
    assert extremes.rows[0][0].startswith("user ")


def test_a_user_appears_once_with_the_clearest_shift() -> None:
    from peftu.judge.shapes import Shift

    shift = Shift(user=3, label="calm", own=0.1, others=0.5, rows=40, p=0.01, words="User 3 says …")
    mirrored = shift.model_copy(update={"label": "glad", "p": 0.001, "words": "User 3 says 'glad' more"})
    table = found(shifts(view(shifts=(shift, mirrored))), Table)
    assert table.rows == (("user 3", "User 3 says 'glad' more"),)
    assert shifts(view(shifts=())) is None


def test_costs_that_were_not_measured_have_no_column_and_no_picture() -> None:
    unknown = {"ms_per_answer": None, "peak_rss_bytes": None}
    methods = tuple(method.model_copy(update=unknown) for method in VIEW.record.methods)
    table = found(cost(RunView(VIEW.record.model_copy(update={"methods": methods}), VIEW.scores)), Table)
    assert table.head == ("method", "training and answering", "users an hour", "parameters", "stored size")
    assert {"time an answer", "peak memory"} <= set(found(cost(VIEW), Table).head)
    assert len(pictures(cost(VIEW))) == 3


def test_statistics_of_the_data() -> None:
    facts = dict(found(data(VIEW), Facts).rows)
    assert "30 users" in facts["Size"]
    assert facts["Agreement"] == "users disagree a good deal (alpha 0.21, nominal)"
    assert list(pictures(data(VIEW))) == ["'calm' is the commonest label, with 45 % of judgements"]
    spread = {"disagreement": {"p10": 0.1, "median": 0.25, "p90": 0.6}, "users": 4}
    facts = dict(found(data(RunView(VIEW.record.model_copy(update={"statistics": spread}), VIEW.scores)), Facts).rows)
    assert "to 25 % of the texts; a tenth of users to less than 10 %" in facts["Distance from the majority"]


def test_leakage_of_seeds_is_averaged() -> None:
    facts = dict(found(trust(VIEW), Facts).rows)
    assert "94.5 % with a text that other users trained on" in facts["Seen in training"]


def test_names_stand_beside_dots_without_covering_others() -> None:
    dots = [(100.0, 100.0), (140.0, 100.0)]
    names = [Label("a-long-name", *dots[0]), Label("another-name", *dots[1])]
    (dx, dy, side), other = place(names, dots, (300, 200))
    assert (dx, dy, side) == (0, -14, "center")
    assert other[1] != -14 or other[2] != "center", "the second name gives way to the first"
    assert place([Label("edge", 295.0, 5.0)], [(295.0, 5.0)], (300, 200))[0][2] == "right"


def test_gains_of_many_users_leave_out_the_outermost() -> None:
    percent = Scale.of_shares()
    gains = np.concatenate([np.linspace(-0.1, 0.2, 1000), [5.0]])[:, None]
    low, high = gain_domain(gains, percent)
    assert low == pytest.approx(-10, abs=0.5)
    assert high < 30
    assert gain_domain(np.array([[np.nan]]), percent) == (-5.0, 5.0)


def test_words() -> None:
    assert join(["a"]) == "a"
    assert join(["a", "b", "c"]) == "a, b and c"
    assert plural(1, "user") == "1 user"
    assert plural(1200, "user") == "1\u202f200 users"


def test_a_judgement_that_names_other_methods_still_has_a_page() -> None:
    judgement = VIEW.judgement
    assert isinstance(judgement, Judgement)
    few = VIEW.record.model_copy(update={"methods": VIEW.record.methods[:2]})
    scored = VIEW.scores.filter(pl.col("method").is_in([method.method for method in few.methods]))
    assert sections(RunView(few, scored, judgement))
