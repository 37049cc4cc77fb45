"""Runs whose truth is known: verdict, titles, marks and recommendation say the same, and no more than the numbers."""

import io
import re
import sys
from functools import lru_cache
from typing import Any

import pytest
from rich.console import Console
from simulated import World, simulated

from peftu.judge.shapes import Comparison
from peftu.report.blocks import Picture, Pictures
from peftu.report.names import capital, named, plain
from peftu.report.sections import sections
from peftu.report.sections.answer import answer
from peftu.report.sections.board import Cell, board
from peftu.report.terminal import summary
from peftu.report.view import RunView
from peftu.system import System

H, G, Z, M, L, I = "user-majority", "global", "zero-shot", "mixed-head", "lora", "ia3"  # noqa: E741
WARM = "lora[warm_start=global]"
MANY = {
    f"lora[r={rank}]": 0.64 for rank in range(1, 13)
}  # the best of twelve: its interval excludes 0, its test does not hold
GUARDED = {"fallback": H, "users": 40, "kept": 30}

WORLDS: dict[str, tuple[World, str, str | None, str | None]] = {
    "clear gain": (World({H: 0.6, G: 0.62, WARM: 0.75, I: 0.6}), "pays", "ship", WARM),
    "several personal ones": (World({H: 0.55, G: 0.58, L: 0.76, I: 0.74}), "pays", "ship", L),
    "none": (World({H: 0.62, G: 0.6, L: 0.6, I: 0.6}), "no-gain", "keep-habit", H),
    "too few users": (World({H: 0.5, G: 0.5, L: 0.9}, users=8), "too-few-users", "collect", L),
    "one user": (World({H: 0.6, G: 0.6, L: 0.8}, users=1), "too-few-users", "collect", L),
    "a gain to look for": (World({H: 0.6, L: 0.66}, users=20, items=10), "no-gain", "collect", L),
    "shared model wins": (World({H: 0.55, G: 0.8, L: 0.65}), "shared-better", "ship-shared", G),
    "shared model suffices": (World({H: 0.5, G: 0.68, L: 0.7}), "shared-suffices", "ship-shared", G),
    "habit wins": (World({H: 0.7, G: 0.55, L: 0.55}), "harm", "keep-habit", H),
    "negative gain, nothing shared": (World({H: 0.7, L: 0.55}), "harm", "keep-habit", H),
    "one seed": (World({H: 0.6, G: 0.6, L: 0.75}, seeds=1), "pays", "ship", L),
    "many seeds": (World({H: 0.6, G: 0.6, L: 0.75}, seeds=4, items=8), "pays", "ship", L),
    "ordinal": (World({H: 0.5, G: 0.55, L: 0.75}, kind="ordinal"), "pays", "ship", L),
    "ordinal loss": (World({H: 0.7, G: 0.55, L: 0.5}, kind="ordinal"), "harm", "keep-habit", H),
    "several labels": (World({H: 0.5, G: 0.55, L: 0.75}, kind="multi"), "pays", "ship", L),
    "free text": (World({G: -2.5, Z: -2.9, L: -2.2}, kind="text", users=14, items=8), "pays", "ship", L),
    "free text, no gain": (
        World({G: -2.5, Z: -2.9, L: -2.5}, kind="text", users=14, items=8), "no-gain", "ship-shared", G,
    ),
    "all tied": (World({H: 0.6, L: 0.6, G: 0.6, I: 0.6}, alike=True), "no-gain", "keep-habit", H),
    "one method only": (World({L: 0.7}), "no-yardstick", None, None),
    "nothing shared": (World({H: 0.6, L: 0.75}), "better-than-habit", "ship", L),
    "nothing personal": (World({H: 0.5, G: 0.7}), "nothing-personal", "ship-shared", G),
    "guard": (
        World({H: 0.6, G: 0.6, L: 0.7, "lora+guard": 0.76}, notes={"lora+guard": GUARDED}), "pays", "ship",
        "lora+guard",
    ),
    "many methods": (World({H: 0.6, G: 0.6, **MANY}, users=24, items=10), "no-gain", "collect", "lora[r=3]"),
    "the cheap one will do": (World({H: 0.6, G: 0.6, M: 0.74, L: 0.76}), "pays", "ship", M),
    "worst tenth on two items": (
        World({H: 0.5, G: 0.5, L: 0.85}, users=19, items=12, seeds=1, few=(2, 2)), "pays", "ship", L,
    ),
    "ceiling passed": (World({H: 0.4, L: 0.95}, votes=0.4), "better-than-habit", "ship", L),
    "rows without a score": (World({H: 0.6, G: 0.6, L: 0.75}, unscored=0.2), "pays", "ship", L),
    "unseen users": (World({H: 0.6, G: 0.62, L: 0.75}, regime="unseen-user"), "pays", "ship", L),
}  # fmt: skip
each = pytest.mark.parametrize("name", WORLDS)


@lru_cache
def view_of(name: str) -> RunView:
    return simulated(WORLDS[name][0])


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Titles are read here; drawing takes its time."""
    charts = ("method_rows", "panel_rows", "rank_chart", "pareto_panel", "gain_panel", "along_panel", "curve_panel")
    for name, module in sys.modules.items():
        for chart in (*charts, "reliability_panel") if name.startswith("peftu.report.sections.") else ():
            monkeypatch.setattr(module, chart, lambda *_, **__: "<svg></svg>", raising=False)


def oracle(view: RunView, own: str, reference: str) -> str:
    """Returns what the rule says, from the raw p-values: written apart from the code under test."""
    assert view.judgement is not None
    family = [one for one in view.judgement.gains if one.against.name == reference and one.p is not None]
    earlier = [system.name for system in view.judgement.references]
    earlier = earlier[: earlier.index(reference)]
    ps = sorted((one.p or 0.0, one.system.label) for one in family if one.system.name not in earlier)
    corrected = {
        label: max(min(1.0, p * (len(ps) - k)) for k, (p, _) in enumerate(ps[: place + 1]))
        for place, (_, label) in enumerate(ps)
    }
    gain = next(one for one in view.judgement.gains if (one.system.label, one.against.name) == (own, reference))
    if gain.users < 10 or gain.gain.ci is None or gain.gain.ci[0] <= 0 <= gain.gain.ci[1] or corrected[own] >= 0.05:
        return "unclear"
    return "better" if gain.gain.ci[0] > 0 else "worse"


def over(view: RunView, label: str, reference: str) -> Comparison | None:
    return view.findings.over(view.results[System.parse(label)], reference)


def decided(view: RunView, reference: str) -> dict[str, str]:
    """Returns label -> decision over a reference."""
    found = {label: over(view, label, reference) for label in map(str, view.results)}
    return {label: gain.decision for label, gain in found.items() if gain is not None}


def terminal(view: RunView, width: int = 80) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(summary(view.record, view.judgement))
    return console.export_text()


def stars(view: RunView) -> set[str]:
    """Returns the labels of the methods whose lines of the terminal's board bear a star."""
    lines = terminal(view).splitlines()
    starts = [next(place for place, line in enumerate(lines) if line.split("  ")[0] == plain(result.system))
              for result in view.ranked]  # fmt: skip
    ends = [*starts[1:], next((place for place, line in enumerate(lines) if line[:2] in ("* ", "ti")), None)]
    spans = zip(view.ranked, starts, ends, strict=True)
    return {result.label for result, start, end in spans if "]*" in "".join(lines[start:end])}


def pictures(view: RunView) -> dict[str, list[Picture]]:
    """Returns section -> its pictures."""
    return {
        section.anchor: [
            picture
            for block in section.blocks
            if isinstance(block, Pictures)
            for picture in (*block.shown, *block.more)
        ]
        for section in sections(view)
    }


@each
def test_case_and_recommendation_are_the_true_ones(name: str) -> None:
    view, (_, case, action, target) = view_of(name), WORLDS[name]
    assert view.judgement is not None
    found = view.judgement.answer
    assert found is not None
    assert (found.case, found.action, found.target and found.target.label) == (case, action, target)


@each
def test_decisions_follow_the_rule_alone(name: str) -> None:
    view = view_of(name)
    assert view.judgement is not None
    references = [system.name for system in view.judgement.references]
    first = references[0] if references else ""
    for gain in view.judgement.gains:
        reference = gain.against.name
        if reference == first or gain.system.name not in references[: references.index(reference)]:
            assert gain.decision == oracle(view, gain.system.label, reference)
    by_pair = {(gain.system, gain.against): gain.decision for gain in view.judgement.gains}
    turned = {"better": "worse", "worse": "better", "unclear": "unclear"}
    for (own, other), decision in by_pair.items():
        assert by_pair.get((other, own), turned[decision]) == turned[decision], "one pair, one decision"
    for pair in view.judgement.comparisons:
        assert by_pair.get((pair.system, pair.against), pair.decision) == pair.decision
        assert by_pair.get((pair.against, pair.system), turned[pair.decision]) == turned[pair.decision]


@each
def test_title_and_marks_say_what_the_verdict_says(name: str) -> None:
    view = view_of(name)
    shown, bar = board(view), view.findings.bar
    assert shown.picture is not None
    title, decisions = shown.picture.title, decided(view, bar)
    better = [result for result in view.ranked if result.personal and decisions.get(result.label) == "better"]
    compared = [result for result in view.ranked if result.personal and result.label in decisions]
    if not compared:
        assert "clearly" not in title
    elif not better:
        assert title.endswith(f"; no personal method is clearly better than {plain(System(bar))}")
        assert view.verdict.tone != "yes"
        assert f"clearly better than {named(System(bar))}" not in view.verdict.text.replace("not clearly better", "")
    else:
        assert title.endswith(f"clearly better than {plain(System(bar))}")
        assert "no personal" not in title
        assert f"is clearly better than {named(System(bar))}" in view.verdict.text
        assert view.verdict.method in better
    place = [column.title for column in shown.columns].index(f"gain over {plain(System(bar))}") if decisions else None
    starred = stars(view)
    for result, line in zip(view.ranked, shown.lines, strict=True):
        clear = decisions.get(result.label, "unclear") != "unclear"
        cell = line.cells[place] if place is not None else None
        mark = {"better": "clear gain", "worse": "clear loss"}.get(decisions.get(result.label, ""), "")
        assert (cell.mark if isinstance(cell, Cell) else "") == mark
        assert (result.label in starred) == clear
    said = " ".join(terminal(view).split())
    assert f"{view.verdict.headline}. {view.verdict.text}" in said
    assert view.verdict.advice in said
    assert dict(answer(view).lines).get("What to do?", "") == view.verdict.advice


@each
def test_no_picture_claims_what_is_not_decided(name: str) -> None:
    view = view_of(name)
    assert view.judgement is not None
    of_habit = decided(view, H)
    found = pictures(view)
    words = {"better": "a clear gain", "worse": "a clear loss", "unclear": "no clear gain or loss"}
    for picture in found.get("people", []):
        result = next(one for one in view.ranked if picture.title.startswith(f"{capital(plain(one.system))}: "))
        assert picture.note.endswith(words[of_habit[result.label]])
    clear = {(group.system.label, group.value): group.decision for group in view.judgement.groups}
    for picture in found.get("labels", []):
        claims = dict(re.findall(r"clearly (gains|loses) for (.*?)(?: and clearly|$)", picture.title))
        result = next(one for one in view.ranked if picture.title.startswith(f"{capital(plain(one.system))} "))
        for verb, decision in (("gains", "better"), ("loses", "worse")):
            values = [value for (label, value), one in clear.items() if label == result.label and one == decision]
            named_ones = [f"'{value}'" for value in values] if len(values) <= 3 else [f"{len(values)} of them"]
            assert all(value in claims[verb] for value in named_ones) if values else verb not in claims
    for picture in found.get("ceilings", []):
        best = max(decided(view, H).items(), key=lambda pair: view.results[System.parse(pair[0])].mean or 0.0)
        assert picture.title.startswith("No personal method") == (of_habit[best[0]] != "better")
    assert not [picture.title for own in found.values() for picture in own if "beats" in picture.title]


@each
def test_figures_belong_to_the_method_that_is_named(name: str) -> None:
    view = view_of(name)
    best, scale = view.verdict.method, view.scale
    lines = dict(answer(view).lines)
    tiles = answer(view).tiles
    leader = view.leaders[0]
    assert tiles[0].value.startswith(scale.number(leader.mean)), "who leads is shown, personal or not"
    assert all(": " not in tile.note and tile.note.split(";")[0] for tile in tiles)
    if best is None:
        return
    gain = over(view, best.label, view.findings.bar)
    assert gain is not None
    assert scale.whole_gain(gain.gain) in view.verdict.text
    assert best.label in view.verdict.text
    if best.helped is not None:
        assert view.verdict.whom.startswith(f"With {plain(best.system)}: {best.helped} of ")
    if gain.detectable:
        shown = f"A true gain of it below {scale.number(gain.detectable)} {scale.unit} is easily missed"
        assert shown in lines["How sure?"]
    assert (view.seeds == 1) == ("over 1 seed: how far another draw" in lines["How sure?"])
    action = view.judgement.answer.action if view.judgement and view.judgement.answer else None
    assert (view.seeds == 1 and action not in (None, "collect")) == view.verdict.advice.endswith("rests on one seed.")


def test_what_only_some_runs_must_say() -> None:
    many = view_of("many methods").verdict
    assert "The interval excludes 0, but so large a difference may still be chance among 13 comparisons" in many.text
    tied = board(view_of("all tied")).picture
    assert tied is not None
    assert tied.title.startswith("4 methods share first place with ")
    few = view_of("too few users").verdict
    assert few.headline == "Too few users"
    assert few.advice == "Collect about 2 more users first. From 10 users on a gain can be called clear."
    whom = dict(answer(view_of("worst tenth on two items")).lines)["For whom?"]
    assert re.search(r"The user it serves worst \(\d+ test items?\) scores .* That is little to go by\.$", whom)
    passed = next(section for section in sections(view_of("ceiling passed")) if section.anchor == "ceilings")
    assert "LoRA averages better than" in passed.lead
    cheap = view_of("the cheap one will do").verdict
    assert "LoRA (lora) averages more" in cheap.text
    assert "Keep each user's habit: user-majority." in view_of("habit wins").verdict.advice
    collect = view_of("a gain to look for").verdict
    assert re.match(r"Collect about \d+ more users", collect.advice)
    shared = answer(view_of("shared model wins")).tiles
    assert [tile.title for tile in shared][:2] == ["Accuracy, first", "Accuracy, best personal method"]
    assert shared[0].note.startswith("One shared model;")


@each
def test_equal_means_share_a_rank_within_its_interval(name: str) -> None:
    view = view_of(name)
    assert view.judgement is not None
    means = {result.label: result.mean for result in view.ranked}
    for one in view.judgement.standings:
        above = [label for label, mean in means.items() if _better(view, mean, means[one.system.label])]
        assert one.rank == 1 + len(above) or name == "rows without a score"
        assert one.ci is None or one.ci[0] <= one.rank <= one.ci[1]


def _better(view: RunView, own: Any, other: Any) -> bool:
    sign = 1 if view.scale.metric.higher_is_better else -1
    return bool(sign * (own - other) > 1e-9)
