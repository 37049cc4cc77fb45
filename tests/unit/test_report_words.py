"""Numbers in words, the verdict and the terminal's leaderboard."""

import io
from itertools import pairwise

import pytest
from rich.console import Console

from peftu.metrics import metrics
from peftu.report.example import example_run
from peftu.report.terminal import ranked, summary
from peftu.report.verdict import Verdict, verdict, widened
from peftu.report.words import MINUS, NOTHING, Scale, count, data_size, seconds
from peftu.results import MethodResult, RunRecord, Score

RECORD, _ = example_run(20, seeds=1)
ACCURACY, MAE = Scale(metrics.get("accuracy")), Scale(metrics.get("mae"))


def test_numbers_for_people() -> None:
    assert [seconds(value) for value in (None, 0.0004, 0.09, 8.5, 90, 200, 9000)] == [
        NOTHING, "< 1 ms", "90 ms", "8.5 s", "90 s", "3.3 min", "2.5 h",
    ]  # fmt: skip
    assert [data_size(value) for value in (0, 999, 2310, 138240, 1.2e9)] == [
        "0 B",
        "999 B",
        "2.3 kB",
        "138 kB",
        "1.2 GB",
    ]
    assert [count(value) for value in (None, 12, 69120)] == [NOTHING, "12", "69\u202f120"]
    assert ACCURACY.gain(Score(mean=-0.0001, ci=(-0.05, 0.051))) == f"0.0 [{MINUS}5.0, +5.1]"
    assert MAE.score(Score(mean=0.5, ci=(0.25, 1))) == "0.500 [0.250, 1.000]"
    assert ACCURACY.spoken_gain(Score(mean=-0.05, ci=(-0.07, -0.03))) == (
        f"5.0 points (95 % interval {MINUS}7.0 to {MINUS}3.0)"
    )


def result(
    name: str, gain: tuple[float, float, float], shared: tuple[float, float, float] | None = None
) -> MethodResult:
    gains = {"user-majority": gain} | ({"global": shared} if shared else {})
    return RECORD.methods[0].model_copy(
        update={
            "method": name, "base": None, "scope": "user", "users": 20, "mean": 0.6 + gain[0],
            "gain": {other: Score(mean=mean, ci=(low, high)) for other, (mean, low, high) in gains.items()},
            "helped": 12, "unchanged": 5, "hurt": 3,
        }
    )  # fmt: skip


def judged(*results: MethodResult, **changes: object) -> Verdict:
    return verdict(RECORD.model_copy(update={"methods": results, **changes}))


WELL, SOME, NONE, ILL = (0.10, 0.06, 0.14), (0.03, 0.002, 0.058), (0.01, -0.03, 0.05), (-0.09, -0.13, -0.05)


@pytest.mark.parametrize(
    ("results", "tone", "headline", "said"),
    [
        ([result("lora", WELL, WELL)], "yes", "Personalising paid off", "It also beats one model shared by all"),
        ([result("lora", WELL)], "yes", "Better than habit", "No shared model (global) was run"),
        ([result("lora", WELL, NONE)], "open", "Better than habit, not shown", "not distinguishable from one model"),
        ([result("lora", WELL, ILL)], "no", "One shared model does better", "better still, by 9.0 points"),
        ([result("lora", NONE, WELL)], "open", "No gain shown", "is not distinguishable from always giving"),
        ([result("lora", ILL)], "no", "Personalising did harm", "falls behind"),
        ([result("lora", SOME)], "yes", "Better than habit", "lora beats"),
    ],
)  # fmt: skip
def test_verdict_follows_the_intervals(results: list[MethodResult], tone: str, headline: str, said: str) -> None:
    answer = judged(*results)
    assert answer.tone == tone
    assert answer.headline.startswith(headline)
    assert said in answer.text
    assert answer.whom == "12 of 20 users do better with it, 5 the same, 3 worse."


def test_the_best_of_many_must_be_clearer() -> None:
    alone = judged(result("a", SOME))
    crowd = judged(result("a", SOME), *(result(name, NONE) for name in "bcdefgh"))
    assert (alone.tone, crowd.tone) == ("yes", "open")
    assert "the best of 8 personal methods" in crowd.text
    assert widened(Score(mean=0.1, ci=(0.05, 0.2)), 1) == (pytest.approx(0.05), pytest.approx(0.2))


@pytest.mark.parametrize(
    ("results", "changes", "said"),
    [
        ([], {}, "No personal method was run"),
        ([result("lora", WELL).model_copy(update={"gain": {}})], {}, "user-majority was not run"),
        ([result("lora", WELL).model_copy(update={"users": 9})], {}, "9 users are too few"),
        ([result("lora", WELL)], {"status": "failed"}, "This run failed"),
        ([result("lora", WELL)], {"status": "interrupted"}, "This run was interrupted"),
        ([result("global", WELL), result("user-majority", WELL)], {}, "No personal method was run"),
    ],
)
def test_no_verdict_without_grounds(results: list[MethodResult], changes: dict[str, object], said: str) -> None:
    answer = judged(*results, **changes)
    assert answer.tone == "open"
    assert said in answer.text


def shown(record: RunRecord, width: int = 100) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(summary(record))
    return console.export_text()


def test_leaderboard_in_the_terminal() -> None:
    text = shown(RECORD)
    lines = text.splitlines()
    assert "Invented judgements · within-user · 20 users" in lines[0]
    best, *_ = ranked(RECORD)
    row, below = next(pair for pair in pairwise(lines) if pair[0].lstrip().startswith(f"{best.method} "))
    assert str(best.base) in below
    assert ACCURACY.give_or_take(Score(mean=best.mean, ci=best.ci)) in row
    assert f"{best.helped}/{best.unchanged}/{best.hurt}" in row
    assert "lora[r=4]" in text, "knobs in brackets are no markup"
    assert f"{verdict(RECORD).text} {verdict(RECORD).whom}" in " ".join(text.split())


def test_leaderboard_fits_a_narrow_terminal_and_tells_unscored_rows() -> None:
    methods = (RECORD.methods[0].model_copy(update={"unscored": 7}), *RECORD.methods[1:])
    text = shown(RECORD.model_copy(update={"methods": methods}), width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert "7 rows not scored" in " ".join(text.split())


def test_a_long_name_stands_whole_above_its_numbers() -> None:
    name = "lora[rank=16,targets=query+key+value,warm_start=global]"
    methods = (*RECORD.methods[1:], RECORD.methods[0].model_copy(update={"method": name, "base": "a-base"}))
    lines = shown(RECORD.model_copy(update={"methods": methods}), width=80).splitlines()
    assert max(map(len, lines)) <= 80
    beside = lines[lines.index(name) + 1]
    assert beside.startswith("  a-base ")
    assert "±" in beside


def test_columns_without_a_value_are_left_out_of_the_terminal() -> None:
    bare = {"gain": {}, "helped": None, "seconds_per_user": None, "bytes_per_user": None}
    text = shown(RECORD.model_copy(update={"methods": (RECORD.methods[0].model_copy(update=bare),)}))
    assert "accuracy, %" in text
    assert not [word for word in ("gain over", "helped/", "time", "size") if word in text.splitlines()[2]]


def test_smaller_errors_rank_first() -> None:
    task = RECORD.task.model_copy(update={"main_metric": "mae"})
    ordered = ranked(RECORD.model_copy(update={"task": task}))
    assert [result.mean for result in ordered] == sorted(result.mean for result in RECORD.methods)
