"""The rule that decides, the case that a run is, and what is recommended."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from boards import board
from scipy import stats as oracle

from peftu.answers import Kind
from peftu.judge import read_judgement
from peftu.judge.answer import answer, needed, needed_items, rounded
from peftu.judge.compare import comparisons, corrected, gains_over_references
from peftu.judge.decide import decide, doubt
from peftu.judge.findings import Findings
from peftu.judge.judgement import judgement_schema
from peftu.judge.shapes import Answer, Comparison
from peftu.report.example import example_run, example_view
from peftu.results import MethodResult, Score

RESULT = example_run(12, seeds=1)[0].methods[0]
Gain = tuple[float, float, float]
WELL, SOME, NONE, LOSS, ILL = (0.1, 0.06, 0.14), (0.03, 0.002, 0.058), (0.01, -0.03, 0.05), (-0.01, -0.05, 0.03), (
    -0.09, -0.13, -0.05
)  # fmt: skip


@pytest.mark.parametrize(
    ("ci", "users", "p", "decision", "lacks"),
    [
        ((0.01, 0.2), 10, 0.049, "better", None),
        ((-0.2, -0.01), 10, 0.049, "worse", None),
        ((0.01, 0.2), 9, 0.01, "unclear", "users"),
        ((0.0, 0.2), 10, 0.01, "unclear", "interval"),
        (None, 10, 0.01, "unclear", "interval"),
        ((0.01, 0.2), 10, 0.05, "unclear", "correction"),
        ((0.01, 0.2), 10, None, "unclear", "correction"),
        ((0.0, 0.0), 10, 1.0, "unclear", "interval"),
    ],
)
def test_one_rule_decides(ci: Any, users: int, p: float | None, decision: str, lacks: str | None) -> None:
    gain = Score(mean=ci and sum(ci) / 2, ci=ci)
    assert (decide(gain, users, p), doubt(gain, users, p)) == (decision, lacks)


def result(label: str) -> MethodResult:
    scope = {"global": "global", "zero-shot": "none"}.get(label, "user")
    return RESULT.model_copy(update={"method": label, "base": None, "scope": scope, "mean": 0.6})


def findings(kind: Kind = "single", users: int = 20, **gains: dict[str, Gain]) -> Findings:
    """Returns findings: method -> reference -> gain, whose test agrees with its interval."""
    own = {name.replace("_", "-"): found for name, found in gains.items()}
    names = dict.fromkeys([*own, *(reference for found in own.values() for reference in found)])
    return Findings(
        [result(name) for name in names],
        [
            Comparison(
                label=name, against=reference, gain=Score(mean=gain[0], ci=gain[1:]), users=users,
                p=0.001 if gain[1] * gain[2] > 0 else 0.5, p_holm=0.01 if gain[1] * gain[2] > 0 else 1.0,
                detectable=0.06, item_noise=0.5, items=10.0,
            )
            for name, found in own.items()
            for reference, gain in found.items()
        ],
        kind,
    )  # fmt: skip


H, G, Z, M = "user-majority", "global", "zero-shot", "mixed-head"


@pytest.mark.parametrize(
    ("given", "case", "action", "target"),
    [
        (findings(lora={H: WELL, G: WELL}), "pays", "ship", "lora"),
        (findings(lora={H: WELL}), "better-than-habit", "ship", "lora"),
        (findings(lora={H: WELL, G: NONE}, **{"global": {H: NONE}}), "better-than-habit", "ship", "lora"),
        (findings(lora={H: WELL, G: NONE}, **{"global": {H: WELL}}), "shared-suffices", "ship-shared", G),
        (findings(lora={H: WELL, G: ILL}, **{"global": {H: WELL}}), "shared-better", "ship-shared", G),
        (findings(lora={H: NONE, G: NONE}, **{"global": {H: WELL}}), "shared-suffices", "ship-shared", G),
        (findings(lora={H: NONE, G: ILL}, **{"global": {H: WELL}}), "shared-better", "ship-shared", G),
        (findings(lora={H: LOSS}), "no-gain", "keep-habit", H),
        (findings(lora={H: NONE}), "no-gain", "keep-habit", H),
        (findings(lora={H: (0.04, -0.01, 0.09)}), "no-gain", "collect", "lora"),
        (findings(lora={H: LOSS}, **{"global": {H: (0.04, -0.01, 0.09)}}), "no-gain", "collect", G),
        (findings(lora={H: ILL}), "harm", "keep-habit", H),
        (findings(lora={H: WELL}, ia3={}), "no-yardstick", None, None),
        (findings(**{"global": {H: WELL}}), "nothing-personal", "ship-shared", G),
        (findings(**{"global": {H: ILL}}), "nothing-personal", "keep-habit", H),
        (findings(lora={H: WELL}, users=9), "too-few-users", "collect", "lora"),
        (findings(lora={H: WELL}, ia3={H: NONE}), "better-than-habit", "ship", "lora"),
        (findings(lora={H: (0.2, -0.1, 0.5)}, ia3={H: WELL}), "better-than-habit", "ship", "ia3"),
        (findings(lora={H: WELL, M: NONE}, mixed_head={H: SOME}), "better-than-habit", "ship", M),
        (findings(lora={H: WELL, M: SOME}, mixed_head={H: SOME}), "better-than-habit", "ship", "lora"),
        (findings("text", lora={G: WELL}), "pays", "ship", "lora"),
        (findings("text", lora={G: LOSS}, **{"global": {Z: WELL}}), "no-gain", "ship-shared", G),
        (findings("text", lora={G: LOSS}, **{"global": {Z: LOSS}}), "no-gain", "keep-habit", Z),
        (findings("text", lora={G: LOSS}), "no-gain", "ship-shared", G),
    ],
)
def test_cases_and_recommendations(given: Findings, case: str, action: str | None, target: str | None) -> None:
    own = answer(given)
    assert (own.case, own.action, own.target and own.target.label) == (case, action, target)
    assert own == Answer.model_validate_json(own.model_dump_json())


def test_the_order_asked_for_changes_no_answer() -> None:
    given = findings(a={H: WELL}, b={H: WELL}, c={H: NONE})
    turned = Findings(given.methods[::-1], given.gains[::-1], "single")
    assert answer(given) == answer(turned)


def test_a_pair_of_references_is_asked_once() -> None:
    values = np.random.default_rng(0).normal([0.5, 0.55, 0.58, 0.52], 0.1, (20, 4))
    scores = board(values)
    names = dict(zip(["m0", "m1", "m2", "m3"], [H, G, "lora", "ia3"], strict=True))
    scores = type(scores)(scores.scores.with_columns(method=scores.scores["method"].replace(names)), scores.metric, 500)
    gains = gains_over_references(scores)
    by_pair = {(gain.system.label, gain.against.label): gain for gain in gains}
    assert by_pair[G, H].p_holm == by_pair[H, G].p_holm
    assert by_pair[G, H].decision != by_pair[H, G].decision or by_pair[G, H].decision == "unclear"
    assert Findings([], gains, "single").corrected_for(by_pair["lora", H]) == 3
    assert Findings([], gains, "single").corrected_for(by_pair["lora", G]) == 2
    pairs = {(pair.system.label, pair.against.label): pair for pair in comparisons(scores, gains)}
    assert pairs["lora", H].p_holm == by_pair["lora", H].p_holm
    assert pairs["ia3", "lora"].p_holm == pairs["ia3", "lora"].p, "the one pair without a reference"
    assert corrected(gains) == gains, "correcting twice changes nothing"


def test_so_many_users_would_show_it() -> None:
    rng = np.random.default_rng(3)
    spread, gain, users = 0.1, 0.04, 20
    detectable = float(oracle.t.ppf(0.975, users - 1) + oracle.t.ppf(0.8, users - 1)) * spread / users**0.5
    size = needed(gain, users, detectable, 1)
    assert size is not None
    found = oracle.ttest_1samp(rng.normal(gain, spread, (4000, size)), 0, axis=1).pvalue < 0.05
    assert 0.76 <= found.mean() <= 0.86
    assert size < (needed(gain, users, detectable, 5) or 0), "more comparisons take more users"
    assert needed(0.001, users, detectable, 1) is None, "nobody is sent to look for next to nothing"
    assert needed(-gain, users, detectable, 1) is None


def test_items_help_as_far_as_they_are_the_noise() -> None:
    gain = findings(lora={H: (0.05, -0.01, 0.11)}).gains[0]
    items = needed_items(gain, 1)
    assert items is not None
    assert items > 10
    assert needed_items(gain.model_copy(update={"item_noise": 0.01}), 1) is None
    assert needed_items(gain.model_copy(update={"item_noise": None}), 1) is None
    assert (rounded(7), rounded(38), rounded(131), rounded(1230)) == (7, 38, 140, 1300)


def test_old_judgements_are_read_and_decided_by_the_rule(tmp_path: Path) -> None:
    kept = example_view(12, seeds=1).judgement
    assert kept is not None
    old = kept.model_dump(mode="json")
    new = {"decision", "item_noise", "items", "answer", "over_habit"}
    stripped = {key: [{k: v for k, v in one.items() if k not in new} for one in value]
                if key in ("gains", "comparisons", "groups", "worst", "trends") else value
                for key, value in old.items() if key not in new}  # fmt: skip
    for group in stripped["groups"]:
        del group["p"], group["p_holm"]
    for gain in stripped["gains"]:
        gain["p_holm"] = 0.9  # as corrected by another rule
    (tmp_path / "judgement.json").write_text(json.dumps(stripped))
    read = read_judgement(tmp_path)
    assert read is not None
    assert [gain.decision for gain in read.gains] == [gain.decision for gain in kept.gains]
    assert read.answer is None
    assert {group.decision for group in read.groups} == {"unclear"}
    (tmp_path / "judgement.json").write_text(kept.model_dump_json())
    assert read_judgement(tmp_path) == kept
    jsonschema.validate(stripped, judgement_schema())
    jsonschema.validate(old, judgement_schema())
