"""What comes from outside: odd JSON and YAML are one ValueError, only plain files are opened, texts are shown."""

import json
import os
from pathlib import Path

import pytest

from peftu.config import MethodSpec, RunSpec, SplitSpec, assignments, validated
from peftu.data.importer.importing import import_file
from peftu.data.load import load_task
from peftu.data.reading import read_json
from peftu.errors import PeftuError
from peftu.judge.submission import ScoreOptions, read_submission
from peftu.outside import parse_json, parse_yaml, plain_file, shown
from peftu.preset import load_preset
from peftu.registry import did_you_mean
from peftu.results import RunRecord

NESTED = "[" * 100_000 + "]" * 100_000
COMPOSED, APART = "Ren\u00e9", "Rene\u0301"  # the same name, in NFC and in NFD


@pytest.mark.parametrize(
    "text", [NESTED, "[" * 100_000, '{"a":' * 500 + "1" + "}" * 500, "1" * 5000, '["\\ud800"]', '{"\\udc00": 1}']
)
def test_json_that_is_not_fit_to_be_read(text: str) -> None:
    for read in (text, text.encode()):
        with pytest.raises(ValueError, match=r"nested|digits|half a character|char \d"):
            parse_json(read)


def test_json_as_it_is() -> None:
    value = {"a": [1, 2.5, None, "\U0001f600 [[[["], "b": [[]] * 200, "back\\slash": "\\ud800"}
    for escaped in (True, False):
        assert parse_json(json.dumps(value, ensure_ascii=escaped)) == value
    assert parse_json('"\\ud800"', halves=True) == "\ud800"
    with pytest.raises(json.JSONDecodeError):
        parse_json("nope")


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999", "1e308", "1" + "0" * 101])
def test_numbers_that_are_no_measurement(number: str) -> None:
    assert parse_json("[1e99, 5, -0.25]", finite=True) == [1e99, 5, -0.25]
    with pytest.raises(ValueError, match="no measurement"):
        parse_json(f"[{number}]", finite=True)


@pytest.mark.parametrize("text", [NESTED, "a: [", "a: 2001-99-99", "a: &x [*x]", "!!python/name:os.system"])
def test_yaml_that_is_not_fit_to_be_read(text: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value)
    assert parse_yaml("a: &b {c: 1}\nd: *b") == {"a": {"c": 1}, "d": {"c": 1}}


def test_only_plain_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("run.json", "mine.csv", "mine.jsonl", "mine.parquet", "preset.json"):
        (tmp_path / name).symlink_to("/dev/zero" if name == "mine.csv" else tmp_path / "pipe")
    assert plain_file(tmp_path) == tmp_path
    assert plain_file(tmp_path / "none") == tmp_path / "none"
    for read in (
        lambda: RunRecord.read(tmp_path),
        lambda: import_file(tmp_path / "mine.csv"),
        lambda: import_file(tmp_path / "mine.parquet"),
        lambda: read_submission(tmp_path / "mine.jsonl", ScoreOptions({})),
        lambda: read_json(tmp_path / "pipe"),
        lambda: load_preset(str(tmp_path / "preset.json")),
    ):
        with pytest.raises(PeftuError, match="is a pipe or a device — write"):
            read()


@pytest.mark.parametrize("seen", ["plain", "línea\n\ttwo", "你好 👩‍👩‍👧 שלום", "[b]x[/b] :smile:"])
def test_texts_that_nothing_obeys_stay(seen: str) -> None:
    assert shown(seen) == seen


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("a\x00b\x7f\x9b", r"a\x00b\x7f\x9b"),
        ("abc\u202edcba\u2066", r"abc\u202edcba\u2066"),
        ("half \ud800 none \uffff", r"half \ud800 none \uffff"),
        ("over\rwritten\r\nnext", "over\\rwritten\nnext"),
    ],
)
def test_texts_are_shown_not_obeyed(text: str, seen: str) -> None:
    assert shown(text) == shown(shown(text)) == seen


@pytest.mark.parametrize(
    "setting",
    [
        f"x={NESTED}",
        "x=" + "9" * 5000,
        ".".join(["x"] * 100_000) + "=1",
        "split.fractions=[NaN,0.1,0.1]",
        "split.fractions=[1e308,0.1,0.1]",
        "seeds=[100000000000000000000]",
        "seeds=[-1]",
        "seeds=[1,1]",
        "seeds=[]",
        "split.users=1" + "0" * 40,
        "split.unseen=NaN",
        "task_options.n=1" + "0" * 40,
        "train.lr=Infinity",
        "max_tokens=1e99",
        r'base="a\u0000b"',
        r'task_options.group="\u001b[31m"',
    ],
)
def test_settings_that_cannot_be_are_one_line(setting: str) -> None:
    with pytest.raises(PeftuError) as caught:
        _run_with(setting)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 400


def _run_with(setting: str) -> None:
    from peftu.cli.spec import run_spec
    from peftu.data.splits import _fractions

    unset = "base preset config baselines seeds option region regime users min_items max_items epochs lr warm_start"
    flags = dict.fromkeys([*unset.split(), "shrink"])
    spec = run_spec({**flags, "task": "tweeteval", "methods": "user-majority", "setting": [setting]})
    _fractions(spec.split)


def test_knobs_are_numbers_that_can_be() -> None:
    for knob in (r'"\u0000"', "NaN", "-Infinity", "1" + "0" * 30):
        with pytest.raises(PeftuError, match="lora"):
            MethodSpec.parse(f"lora[alpha={knob}]")
    assert assignments("a=1,b=[1,2],c=x", "-s") == {"a": 1, "b": [1, 2], "c": "x"}
    assert validated(RunSpec, {"task": "t", "methods": [{"name": "lora"}], "split": SplitSpec()}, "run").seeds == (0,)
    with pytest.raises(PeftuError, match=r"tweeteval.*min_examples"):
        load_task("tweeteval", None, {"min_examples": -(10**400)})


def test_names_in_another_unicode_form_are_told_apart() -> None:
    assert "differs from" in did_you_mean(APART, [COMPOSED, "other"])
    assert "Unicode form only" in did_you_mean(COMPOSED, [APART])
    assert did_you_mean("ren", ["Rene"]) == " — did you mean 'Rene'?"
