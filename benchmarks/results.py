"""Every method on every task at hand, within-user: experiments, and the tables of docs/results.md that come of them.

    python benchmarks/results.py --raw DIR --minutes 90     # run what the tables lack
    python benchmarks/results.py --page                     # write docs/results.md from the committed tables

A task is one experiment: all methods at all its seeds, with the settings of a preset. What its table lacks, or has with
other settings than the preset has today, is run, and the table then holds each user's scores (users by number) and what
follows from them. A run that is stopped goes on from its cells. Settings were chosen on validation rows of another task
or of other seeds, and test rows are scored once, here.
"""

import argparse
import json
import runpy
import time
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
from scipy.stats import rankdata

from peftu.config import RunSpec
from peftu.data.task import tasks
from peftu.errors import PeftuError
from peftu.experiment import method_list, run_spec
from peftu.files import write_atomic
from peftu.judge.board import Board
from peftu.judge.compare import corrected, gains_over_references
from peftu.judge.findings import Findings
from peftu.judge.shapes import Comparison
from peftu.metrics import metrics
from peftu.plan import plan
from peftu.preset import WARM, load_preset
from peftu.report.verdict import verdict
from peftu.report.words import Scale
from peftu.results import (
    MIXED_HEAD,
    REFERENCES,
    USER_MAJORITY,
    Hashes,
    MethodCost,
    MethodResult,
    Run,
    RunRecord,
    Score,
    TaskSummary,
    load_run,
    summarise,
)
from peftu.stats import RESAMPLES
from peftu.system import System

HERE = Path(__file__).parent
TABLES = HERE / "results" / "tables"
PAGE = HERE.parent / "docs" / "results.md"
TWO, SEVERAL = "tuned", "tuned-several"  # the presets of tasks with two labels, and of those with more
BASE, MINILM = "smollm2-135m-instruct", "all-minilm-l6-v2"
YARDSTICKS = ("global-majority", "user-majority", f"mixed-head@{MINILM}", "zero-shot")
TRAINED = (
    "global", "lora[warm_start=global]", "lora", "user-embedding", "user-token", "hypernet", "ia3", "adapter-pfeiffer",
    "adapter-houlsby", "prefix-tuning", "bitfit", "personal-head", "vera", "ia3[warm_start=global]",
    "adapter-pfeiffer[warm_start=global]", "prefix-tuning[warm_start=global]", f"lora@{MINILM}",
    f"lora[warm_start=global]@{MINILM}",
)  # fmt: skip
DEAR = ("prompt-tuning", "p-tuning", "alora", "few-shot", "profile", "retrieval")  # more tokens for each user and text
SMALL = {"users": 20, "max_items": 50}
TASKS: dict[str, tuple[dict[str, Any], str, tuple[int, ...]]] = {  # task -> limits of its split, preset, seeds
    "tweeteval": ({}, TWO, (0, 1, 2)),
    "epic": (SMALL, TWO, (0,)),
    "subjectivediscourse-response": (SMALL, SEVERAL, (0,)),
    "subjectivediscourse-question-sentiment": (SMALL, SEVERAL, (0,)),
    "studemo": (SMALL, SEVERAL, (0,)),
    "hatexplain": (SMALL, SEVERAL, (0,)),
    "movielens": (SMALL, TWO, (0,)),
}
SEEN = {  # what a preset's search has seen of what the tables are about
    TWO: "On tweeteval it has seen 90 of the 200 rows of 16 of the 20 users, so about a third of each seed's test "
    "rows: that table is a little optimistic. Of other tasks it has seen nothing.",
    SEVERAL: "It has seen the people and texts of the two other tasks of SubjectiveDiscourse, not their labels.",
}
METHODS = (*YARDSTICKS, *TRAINED, *DEAR)
GIVEN = {*MethodCost.model_fields, "scope", "trained", "uses_others_labels"}  # of a result: not from users' scores

Table = dict[str, Any]  # as in its file: task, metric, preset, splits, methods (as asked for -> a line), gains


def experiment(task: str, methods: tuple[str, ...] = METHODS, seeds: tuple[int, ...] = ()) -> RunSpec:
    """Returns the description of a task's run, with the task's preset beneath; without seeds: at all of them."""
    limits, preset, every = TASKS[task]
    return run_spec(task, methods=methods, preset=preset, seeds=seeds or every, **limits)


def read(task: str, tables: Path = TABLES) -> Table:
    """Returns what was measured on a task, without methods whose settings were others than they are today."""
    path, spec = tables / f"{task}.json", experiment(task)
    if not path.exists():
        metric = tasks.get(task).card.main_metric
        return {"task": task, "metric": metric, "preset": spec.preset, "splits": {}, "methods": {}, "gains": []}
    table: Table = json.loads(path.read_text(encoding="utf-8"))
    same = {name: line for name, line in table["methods"].items() if line["settings"] == spec.settings.get(name, {})}
    return {**table, "methods": same}


def write(table: Table, tables: Path) -> None:
    """Writes a table, a method or gain a line."""
    start = json.dumps({key: value for key, value in table.items() if key not in ("methods", "gains")})[:-1]
    methods = ",\n".join(f"{json.dumps(name)}: {json.dumps(line)}" for name, line in table["methods"].items())
    gains = ",\n".join(map(json.dumps, table["gains"]))
    tables.mkdir(parents=True, exist_ok=True)
    text = f'{start},\n"methods": {{\n{methods}\n}},\n"gains": [\n{gains}\n]}}\n'
    write_atomic(tables / f"{table['task']}.json", text)


def missing(table: Table) -> dict[tuple[int, ...], tuple[str, ...]]:
    """Returns seeds -> methods that a table lacks at these."""
    lacking: dict[tuple[int, ...], tuple[str, ...]] = {}
    for method in METHODS:
        cells = table["methods"][method]["cells"] if method in table["methods"] else {}
        if seeds := tuple(seed for seed in TASKS[table["task"]][2] if str(seed) not in cells):
            lacking[seeds] = (*lacking.get(seeds, ()), method)
    return lacking


def fill(task: str, only: list[str], raw: Path | None, end: float, tables: Path) -> None:
    """Runs what a task's table lacks, and puts it in.

    Raises:
        PeftuError: the run cannot be made, or is of another split than the table.
        OutOfTimeError: the time is over; the cells that are whole stay.
    """
    from peftu.cli.progress import progress
    from peftu.execute.run import How, run

    table, folder = read(task, tables), raw / task.partition("-")[0] if raw else None
    files = folder if folder and folder.exists() else None
    for seeds, lacking in missing(table).items():
        if methods := tuple(name for name in lacking if not only or name in only):
            how, spec = How(max_minutes=max(0.0, end - time.monotonic()) / 60), experiment(task, methods, seeds)
            with progress() as reporter:
                out, record = run(spec, None, files, reporter=reporter, how=how)
            add(table, spec, load_run(out))
            write(judged(table), tables)
            print(f"{task}, seeds {seeds}: {len(record.methods)} of {len(methods)} methods, in {out}", flush=True)


def add(table: Table, spec: RunSpec, run: Run) -> None:
    """Puts what a run measured into a table.

    Raises:
        PeftuError: the run is of another split than the table.
    """
    import torch

    record, scores = run.record, run.user_scores().sort("user_id")
    names = {(job.label, job.base): str(job.spec) for job in plan(spec)}
    machine = {"date": record.created.date().isoformat(), "threads": torch.get_num_threads()}
    machine |= record.environment.model_dump(include={"cpu", "cores", "git"})
    for seed, split in record.hashes.splits.items():
        if table["splits"].setdefault(seed, split) != split:
            raise PeftuError(f"{table['task']}: seed {seed}: is split otherwise than its table — measure it all anew")
    for result in record.methods:
        name = names[result.method, result.base]
        line = table["methods"].setdefault(name, {"settings": spec.settings.get(name, {}), "cells": {}})
        line["result"] = result.model_dump(mode="json", exclude_defaults=True)
    for (method, base, seed), users in scores.group_by("method", "base", "seed", maintain_order=True):
        kept = users.select(*dict.fromkeys(("n_test", "n_scored", "accuracy", "macro_f1", table["metric"])))
        line = table["methods"][names[method, base]]
        about = {**machine, "dtype": record.dtypes.get(base), "seconds": line["result"].get("seconds_per_user")}
        line["cells"][str(seed)] = {**about, "users": kept.to_dict(as_series=False)}


def judged(table: Table) -> Table:
    """Returns a table whose results and gains are computed from its users' scores, as those of a run are.

    Methods with fewer seeds are compared with references at their own seeds.
    """
    card, lines = tasks.get(table["task"]).card, table["methods"]
    given = {name: MethodResult.model_validate(line["result"]) for name, line in lines.items()}
    seeds = {name: frozenset(line["cells"]) for name, line in lines.items()}
    results: dict[str, MethodResult] = {}
    gains: list[Comparison] = []
    for group in dict.fromkeys(seeds.values()):
        names = {given[name].label: name for name in lines if seeds[name] == group}
        references = [name for name in lines if seeds[name] > group and System.parse(name).name in REFERENCES]
        beside = [name for name in lines if name in references or seeds[name] == group]
        scores = pl.concat([_scores(given[name], seed, lines[name]) for name in beside for seed in sorted(group)])
        results |= {names[row.label]: row for row in summarise(scores, card) if row.label in names}
        board = Board(scores, metrics.get(card.main_metric), RESAMPLES)
        gains += [gain for gain in gains_over_references(board) if gain.system.label in names]
    gains.sort(key=lambda gain: REFERENCES.index(gain.against.name))
    for name, line in lines.items():
        result = results[name].model_copy(update=given[name].model_dump(include=GIVEN))
        line["result"] = result.model_dump(mode="json", exclude_defaults=True)
    return {
        **table,
        "gains": [gain.model_dump(mode="json", by_alias=True, exclude_defaults=True) for gain in corrected(gains)],
    }


def _scores(result: MethodResult, seed: str, line: dict[str, Any]) -> pl.DataFrame:
    """Returns the user scores of one method at one seed, with a number in each user's place."""
    return pl.DataFrame(line["cells"][seed]["users"]).with_columns(
        method=pl.lit(result.method),
        base=pl.lit(result.base, dtype=pl.String),
        seed=pl.lit(int(seed)),
        user_id=pl.int_range(pl.len()),
    )


# --- the page --------------------------------------------------------------------------------------------------------


def findings_of(table: Table) -> Findings:
    """Returns a table's results and decided gains."""
    results = [MethodResult.model_validate(line["result"]) for line in table["methods"].values()]
    gains = [Comparison.model_validate(gain) for gain in table["gains"]]
    return Findings(results, gains, tasks.get(table["task"]).card.kind)


def section(table: Table, findings: Findings) -> list[str]:
    """Returns one task's section in Markdown, best first, and what was not run."""
    scale, rows = _ranked(table, findings)
    head = f"{scale.metric.name} [95 % interval] | over user-majority | over mixed-head"
    lines = [f"| method | base | seeds | {head} | own numbers | own KB | s a user |", "|---" * 9 + "|"]
    for row, _ in rows:
        gains = " | ".join(_gain(findings.over(row, name), scale) for name in (USER_MAJORITY, MIXED_HEAD))
        score = scale.score(Score(mean=row.mean, ci=row.ci))
        cost = f"{row.parameters_per_user:,} | {row.bytes_per_user / 1000:,.1f} | {row.seconds_per_user:.2f}"
        lines.append(f"| `{row.method}` | {row.base or ''} | {len(row.seeds)} | {score} | {gains} | {cost} |")
    lacking = {name for names in missing(table).values() for name in names}
    notes = [f"{findings.methods[0].users} users.", *verdicts(table, findings)]
    if unknown := sorted(lacking - table["methods"].keys()):
        notes.append(f"Not run yet: {', '.join(f'`{name}`' for name in unknown)}.")
    if lacking & table["methods"].keys():
        notes.append("Not all seeds are run yet: the column says how many are.")
    return [f"## {table['task']}", "", " ".join(notes), "", *lines, ""]


def verdicts(table: Table, findings: Findings) -> list[str]:
    """Returns a report's answer to these results, and how many methods are clearly better or worse than mixed-head."""
    task = TaskSummary.of(tasks.get(table["task"]).card)
    hashes = Hashes(data="", splits=table["splits"])
    answer = verdict(RunRecord.model_construct(status="complete", task=task, hashes=hashes), findings)
    decided = {row.label: findings.decision(row, MIXED_HEAD) for row in findings.methods}
    better = ", ".join(f"`{name}`" for name, decision in sorted(decided.items()) if decision == "better")
    count = Counter(decided.values())
    beside = f"`mixed-head`: {better or 'none'}; worse: {count['worse']}; not clear: {count['unclear']}."
    return [f"{answer.headline}: {answer.text}", *filter(None, [answer.advice]), f"Clearly better than {beside}"]


def overview(boards: dict[str, tuple[Table, Findings]]) -> list[str]:
    """Returns one table of all methods and tasks: scores, and which are clearly better or worse than user-majority."""
    marks = {"better": " ▲", "worse": " ▼"}
    ranks: dict[str, list[float]] = {}
    shown: dict[str, dict[str, str]] = {}
    for task, (table, findings) in boards.items():
        scale, rows = _ranked(table, findings)
        for row, rank in rows:
            ranks.setdefault(row.label, []).append(rank)
            mark = marks.get(str(findings.decision(row, USER_MAJORITY)), "")
            shown.setdefault(row.label, {})[task] = f"{scale.number(row.mean)}{mark}"
    mean = {label: sum(places) / len(places) for label, places in ranks.items()}
    heads = [f"{task} ({table['metric']})" for task, (table, _) in boards.items()]
    lines = [f"| method | {' | '.join(heads)} | mean rank |", "|---" * (len(heads) + 2) + "|"]
    for label in sorted(mean, key=lambda label: mean[label]):
        scores = " | ".join(shown[label].get(task, "") for task in boards)
        lines.append(f"| `{label.removesuffix(f'@{BASE}')}` | {scores} | {mean[label]:.1f} |")
    about = (
        "Each task's main metric in percent. ▲ clearly better, ▼ clearly worse than `user-majority`, by the [rule of "
        "every report](judging.md#when-a-gain-is-clear): its test is corrected for the number of methods on the task. "
        "Mean rank: over the tasks that a method was run on, 1 is best; an empty cell was not run yet. Few users: most "
        "differences between methods are within chance."
    )
    return ["## All tasks", "", about, "", *lines, ""]


def _ranked(table: Table, findings: Findings) -> tuple[Scale, list[tuple[MethodResult, float]]]:
    """Returns how a task's numbers are written, and its results with their ranks, best first."""
    metric = metrics.get(table["metric"])
    losses = [(row.mean or 0.0) * (-1 if metric.higher_is_better else 1) for row in findings.methods]
    rows = zip(findings.methods, map(float, rankdata(losses)), strict=True)
    return Scale(metric), sorted(rows, key=lambda pair: pair[1])


def _gain(comparison: Comparison | None, scale: Scale) -> str:
    if comparison is None or comparison.gain.mean is None or comparison.gain.ci is None:
        return ""
    mean, low, high = (scale.factor * value for value in (comparison.gain.mean, *comparison.gain.ci))
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def page() -> str:
    """Returns docs/results.md."""
    tables = {task: table for task in TASKS if (table := read(task))["methods"]}
    cells = [cell for table in tables.values() for line in table["methods"].values() for cell in line["cells"].values()]
    dates = sorted({cell["date"] for cell in cells})
    threads = {1: "one thread beside other work", 2: "two threads beside much other work"}
    machines = Counter(
        f"{cell['cpu']}, {cell['dtype']}, {threads.get(cell['threads'], str(cell['threads']) + ' threads')}"
        for cell in cells
        if cell["dtype"]
    )
    listed = "; ".join(f"{machine} ({count} cells)" for machine, count in machines.most_common())
    apart = " Seconds of methods that ran on different ones do not compare." if len(machines) > 1 else ""
    out = [
        "# Results",
        "",
        "Within-user splits; per task the mean over users, with bootstrap intervals over users. Base:",
        f"`{BASE}` with its default region unless the table names another. The tables are made by",
        "`python benchmarks/results.py --page` from `benchmarks/results/tables/`; running",
        "`python benchmarks/results.py --raw DIR` fills what is missing. Tasks other than tweeteval: one seed, at most",
        f"{SMALL['users']} users and {SMALL['max_items']} items a user, drawn by hash.",
        f"Settings of trained methods: the preset `{TWO}` ([below](#settings-the-preset-{TWO})) on tasks with two",
        f"labels, `{SEVERAL}` ([below](#settings-the-preset-{SEVERAL})) on the others; else a method's defaults.",
        "Own numbers: of each user alone; what all share comes on top. Intervals take the texts as given.",
        f"Measured {' to '.join(dict.fromkeys((dates[0], dates[-1])))}, {listed}.{apart}",
        "",
    ]
    boards = {task: (table, findings_of(table)) for task, table in tables.items()}
    out += overview(boards)
    for task in TASKS:
        out += section(*boards[task]) if task in boards else [f"## {task}", "", "Not run yet.", ""]
    out += runpy.run_path(str(HERE / "encoders.py"))["section"]()
    return "\n".join([*out, *free_answers(), *settings(TWO), *settings(SEVERAL)])


def settings(name: str) -> list[str]:
    """Returns the section on a preset that cells were run with."""
    preset = load_preset(name)
    every = [(base, method, how) for base, of in preset.found.items() for method, how in of.items()]
    lines = ["| method | base | settings | validation loss |", "|---|---|---|---|"]
    for base, method, how in sorted(every, key=lambda entry: entry[2]["loss"]):
        values = ", ".join(f"{key}={value}" for key, value in preset.methods[base][method].items()) or "the defaults"
        name_of = f"{method.removeprefix(WARM)}[warm_start=global]" if method.startswith(WARM) else method
        lines.append(f"| `{name_of}` | {base} | {values} | {how['loss']:.3f} |")
    first, trials = every[0][2], sorted({how["trials"] for _, _, how in every})
    split, seeds = first["split"], ", ".join(map(str, first["seeds"]))
    about = (
        f"By `peftu tune` on {first['task']}, seed {seeds}: {split['users']} users, {split['max_items']} items each, "
        f"parts {' / '.join(f'{part:g}' for part in split['fractions'])}, {' or '.join(map(str, trials))} trials a "
        "method; test rows unread. Each method climbs from its defaults; validation loss in nats, least first. All "
        f"trials: `benchmarks/results/{name}.trials.jsonl`. {SEEN[name]}"
    )
    return [f"## Settings: the preset {name}", "", about, "", *lines, ""]


def free_answers() -> list[str]:
    """Returns the tables of tasks whose answers are free text, from the lines of their own script."""
    script = runpy.run_path(str(HERE / "generative.py"))
    out = []
    for task, site in json.loads(script["RESULTS"].read_text(encoding="utf-8")).items():
        about = (
            f"{site['users']} users, seed {site['seed']}, {site['date']}; see [free answers](generative.md#measured)."
        )
        out += [f"## {task}", "", about, "", script["table"](site), ""]
    return out


def main() -> None:
    """Fills tables, or writes the page."""
    from peftu.executors.schedule import OutOfTimeError

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, help="folder with one folder a data set; otherwise downloaded")
    parser.add_argument("--minutes", type=float, default=90.0, help="begin no further cell after so long")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--methods", default="", help="only these")
    parser.add_argument("--tables", type=Path, default=TABLES, help="folder to fill in the place of the page's own")
    parser.add_argument("--page", action="store_true", help="write docs/results.md and run nothing")
    arguments = parser.parse_args()
    end = time.monotonic() + 60 * arguments.minutes
    for task in [] if arguments.page else arguments.tasks.split(","):
        try:
            fill(task, method_list(arguments.methods), arguments.raw, end, arguments.tables)
        except PeftuError as error:
            print(f"{task}: {error}")
        except OutOfTimeError as error:
            print(f"{task}: time is over, {error}; run this again to go on")
            break
    if arguments.tables == TABLES:
        PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
