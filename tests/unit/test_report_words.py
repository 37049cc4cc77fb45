"""Numbers in words, the verdict and the terminal's leaderboard."""

import io
from itertools import pairwise

import pytest
from rich.console import Console

from peftu.metrics import metrics
from peftu.report.example import example_view
from peftu.report.names import above, drawn, named, plain
from peftu.report.terminal import ranked, summary
from peftu.report.words import MINUS, NOTHING, Scale, count, data_size, seconds
from peftu.results import RunRecord, Score
from peftu.system import System

VIEW = example_view(20, seeds=1)
RECORD = VIEW.record
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
    assert ACCURACY.whole_gain(Score(mean=-0.05, ci=(-0.07, -0.03))) == (
        f"{MINUS}5.0 points (95 % interval {MINUS}7.0 to {MINUS}3.0)"
    )
    assert MAE.whole_gain(Score(mean=0.05, ci=(0.03, 0.07))) == (
        "+0.050 steps (95 % interval +0.030 to +0.070; + is better)"
    )
    assert MAE.whole_gain(Score(mean=0.05, ci=None)) == "+0.050 steps (no interval)"


def test_methods_have_plain_names_with_their_ids_beneath() -> None:
    assert plain(System.parse("user-majority")) == "each user's habit"
    assert plain(System.parse("lora[r=4,warm_start=global]")) == "LoRA, started from everyone's (r=4)"
    assert plain(System.parse("lora+guard")) == "LoRA, only where it pays"
    assert plain(System.parse("somebody's[a=b]")) == "somebody's (a=b)"
    assert named(System.parse("lora[r=4]@base")) == "LoRA (lora[r=4]@base)"
    assert named(System.parse("unknown")) == "unknown", "a name is not said twice"
    assert above(System.parse("global@base")) == "One shared model\nglobal@base"
    assert drawn(System.parse("lora[r=4,warm_start=global]@base")) == "LoRA, started from everyone's\nr=4 · base"


def shown(record: RunRecord, width: int = 100) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(summary(record, VIEW.judgement))
    return console.export_text()


def test_leaderboard_in_the_terminal() -> None:
    text = shown(RECORD)
    lines = text.splitlines()
    assert "Invented judgements · within-user · 20 users" in lines[0]
    best, *_ = ranked(RECORD)
    row, below = next(pair for pair in pairwise(lines) if pair[0].startswith(f"{plain(best.system)} "))
    assert best.label in below, "the id that a command takes stands beneath"
    assert ACCURACY.give_or_take(Score(mean=best.mean, ci=best.ci)) in row
    assert ACCURACY.gain(best.gain["user-majority"]) in row
    assert f"{best.helped}/{best.unchanged}/{best.hurt}" in row
    assert "lora[r=4]" in text, "knobs in brackets are no markup"
    said = VIEW.verdict
    assert f"{said.headline}. {said.text} {said.whom} What to do: {said.advice}" in " ".join(text.split())
    assert "time a user: training and answering" in text


def test_without_a_judgement_nothing_is_called_clear() -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(summary(RECORD, None))
    text = console.export_text()
    assert "]*" not in text
    assert "clearly" not in text


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
    place = lines.index(plain(System(name)))
    assert lines[place + 1] == f"  {name}@a-base"
    assert "±" in lines[place + 2]


def test_columns_without_a_value_are_left_out_of_the_terminal() -> None:
    bare = {"gain": {}, "helped": None, "seconds_per_user": None, "bytes_per_user": None}
    text = shown(RECORD.model_copy(update={"methods": (RECORD.methods[0].model_copy(update=bare),)}))
    assert "accuracy, %" in text
    assert not [word for word in ("gain over", "helped/", "time", "size") if word in text.splitlines()[2]]


def test_equal_means_stand_in_the_order_of_their_names() -> None:
    tied = [method.model_copy(update={"mean": 0.5}) for method in RECORD.methods]
    names = [result.label for result in ranked(RECORD.model_copy(update={"methods": tuple(tied[::-1])}))]
    assert names == sorted(names), "and not in the order that was asked for"


def test_smaller_errors_rank_first() -> None:
    task = RECORD.task.model_copy(update={"main_metric": "mae"})
    ordered = ranked(RECORD.model_copy(update={"task": task}))
    means = [result.mean or 0.0 for result in ordered]
    assert means == pytest.approx(sorted(means))
