"""Every method on every task at hand, within-user: the tables of docs/results.md come from its JSON lines.

    python benchmarks/results.py --raw DIR --minutes 90     # fill cells that were not run yet, most telling ones first
    python benchmarks/results.py --page                     # write docs/results.md from the committed lines

A cell is one method at one seed of one task. Each finished cell is one line with every user's scores (users by number),
so that running the script again, here or elsewhere, goes on where it stopped. Settings come from the task's preset; a
cell of other settings than the preset has today counts as not run. They were chosen on validation rows of another task
or of other seeds, and test rows are scored once, here.
"""

import argparse
import json
import runpy
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LINES = HERE / "results" / "results.jsonl"
PAGE = HERE.parent / "docs" / "results.md"
TWO, SEVERAL = "tuned", "tuned-several"  # the presets of tasks with two labels, and of those with more
BASE, MINILM = "smollm2-135m-instruct", "all-minilm-l6-v2"
REFERENCES = ("global-majority", "user-majority", f"mixed-head@{MINILM}", "zero-shot")
TRAINED = (
    "global", "lora[warm_start=global]", "lora", "user-embedding", "user-token", "hypernet", "ia3", "adapter-pfeiffer",
    "adapter-houlsby", "prefix-tuning", "bitfit", "personal-head", "vera", "ia3[warm_start=global]",
    "adapter-pfeiffer[warm_start=global]", "prefix-tuning[warm_start=global]", f"lora@{MINILM}",
    f"lora[warm_start=global]@{MINILM}",
)  # fmt: skip
DEAR = ("prompt-tuning", "p-tuning", "alora", "few-shot", "profile", "retrieval")  # more tokens for each user and text
SMALL = {"users": 20, "max_items": 50}
TASKS: dict[str, tuple[dict[str, Any], str]] = {  # task -> limits of its split, preset
    "tweeteval": ({}, TWO),
    "epic": (SMALL, TWO),
    "subjectivediscourse-response": (SMALL, SEVERAL),
    "subjectivediscourse-question-sentiment": (SMALL, SEVERAL),
    "studemo": (SMALL, SEVERAL),
    "hatexplain": (SMALL, SEVERAL),
    "movielens": (SMALL, TWO),
}
SEEDS = {"tweeteval": (0, 1, 2)}
SEEN = {  # what a preset's search has seen of what the tables are about
    TWO: "On tweeteval it has seen 90 of the 200 rows of 16 of the 20 users, so about a third of each seed's test "
    "rows: that table is a little optimistic. Of other tasks it has seen nothing.",
    SEVERAL: "It has seen the people and texts of the two other tasks of SubjectiveDiscourse, not their labels.",
}
COMPARED = ("user-majority", "mixed-head")

Cell = dict[str, Any]
Rows = list[tuple[Any, int]]  # a task's leaderboard rows, each with its number of seeds


def wanted() -> Iterator[tuple[str, int, str]]:
    """Yields every cell: what all others are compared with first, then a first seed of everything, then more seeds."""
    for methods in (REFERENCES + TRAINED[:3], TRAINED[3:], DEAR):
        for task in TASKS:
            for method in methods:
                yield task, 0, method
    for methods in (REFERENCES + TRAINED, DEAR):
        for task, seeds in SEEDS.items():
            for seed in seeds[1:]:
                for method in methods:
                    yield task, seed, method


def read() -> list[Cell]:
    """Returns the cells run so far, with the settings that their task's preset has today."""
    lines = LINES.read_text(encoding="utf-8").splitlines() if LINES.exists() else []
    return [cell for cell in map(json.loads, lines) if cell["settings"] == preset_of(cell["task"], cell["asked"])]


def key(cell: Cell) -> tuple[str, int, str]:
    """Returns what names a cell."""
    return cell["task"], cell["seed"], cell["asked"]


class Room:
    """One task at one seed: its split, and fits whose contexts and shared modules all methods use."""

    def __init__(self, task: str, seed: int, raw: Path | None) -> None:
        from peftu.cells.fits import Fits
        from peftu.data.load import load_task
        from peftu.data.splits import make_problem, make_split
        from peftu.lab.progress import Silent

        self.spec = spec_of(task, seed, REFERENCES[0])
        folder = raw / task.partition("-")[0] if raw else None
        table = load_task(task, folder if folder and folder.exists() else None, {})
        self.card = table.card
        self.problem = make_problem(table, table.card, make_split(table, self.spec.split, seed))
        self.fits = Fits(table.card, {seed: self.problem}, self.spec.max_tokens, Silent())

    def run(self, task: str, seed: int, asked: str) -> Cell:
        """Returns one cell."""
        import polars as pl
        import torch

        from peftu.cells.frames import predictions_frame
        from peftu.environment import current_environment
        from peftu.metrics import user_scores
        from peftu.plan import plan

        (job,) = plan(spec_of(task, seed, asked))
        cell = self.fits.run(job, seed)
        scores = user_scores(predictions_frame(job, seed, self.problem, cell), self.card)
        number = {user: place for place, user in enumerate(self.problem.users)}
        kept = list(dict.fromkeys(["accuracy", "macro_f1", self.card.main_metric]))
        scores = scores.with_columns(user=pl.col("user_id").replace_strict(number, return_dtype=pl.Int64))
        environment = current_environment()
        return {
            "task": task,
            "seed": seed,
            "asked": asked,
            "method": job.label,
            "base": job.base,
            "preset": self.spec.preset,
            "settings": preset_of(task, asked),
            "resolved": job.resolved(),
            "split": self.problem.split_hash,
            "metric": self.card.main_metric,
            "parameters": cell.parameters,
            "bytes": cell.bytes_per_user,
            "seconds": cell.seconds / len(self.problem.users),
            "users": scores.select("user", "n_test", "n_scored", *kept).to_dict(as_series=False),
            "date": datetime.now(UTC).date().isoformat(),
            "cpu": environment.cpu,
            "cores": environment.cores,
            "threads": torch.get_num_threads(),
            "dtype": str(self.fits.lab.base(job.base).dtype).removeprefix("torch.") if job.base else None,
            "git": environment.git,
        }


def spec_of(task: str, seed: int, asked: str) -> Any:
    """Returns the run of one method, with the settings of the task's preset beneath."""
    from peftu.config import MethodSpec, RunSpec, SplitSpec

    limits, preset = TASKS[task]
    method, settings = MethodSpec.parse(asked), preset_of(task, asked)
    spec = RunSpec(task=task, methods=(method,), seeds=(seed,), split=SplitSpec(**limits), preset=preset)
    return spec.model_copy(update={"settings": {str(method): settings} if settings else {}})


def preset_of(task: str, asked: str) -> dict[str, Any]:
    """Returns what the task's preset has for a method; nothing: its defaults."""
    from peftu.config import MethodSpec
    from peftu.preset import load_preset

    method = MethodSpec.parse(asked)
    return load_preset(TASKS[task][1]).settings(method, method.base or BASE) or {}


def fill(raw: Path | None, minutes: float, tasks: set[str], methods: set[str]) -> None:
    """Runs cells that are not there yet, until the time is over; a cell that was begun is finished."""
    from peftu.errors import PeftuError

    end = time.monotonic() + 60 * minutes
    done = {key(cell) for cell in read()}
    asked = [cell for cell in wanted() if cell not in done and cell[0] in tasks and (not methods or cell[2] in methods)]
    rooms: dict[tuple[str, int], Room] = {}
    for place, (task, seed, method) in enumerate(asked):
        if time.monotonic() > end:
            print(f"time is over: {len(asked) - place} cells are left")
            return
        began = time.monotonic()
        try:
            if (task, seed) not in rooms:
                rooms[task, seed] = Room(task, seed, raw)
            cell = rooms[task, seed].run(task, seed, method)
        except PeftuError as error:
            print(f"{place + 1}/{len(asked)} {task} seed {seed} {method}: {error}")
            continue
        with LINES.open("a", encoding="utf-8") as file:
            file.write(json.dumps(cell, ensure_ascii=False) + "\n")
        mean = sum(cell["users"][cell["metric"]]) / len(cell["users"]["user"])
        took = time.monotonic() - began
        print(
            f"{place + 1}/{len(asked)} {task} seed {seed} {method}: {cell['metric']} {mean:.3f}, {took:.0f} s",
            flush=True,
        )


# --- the page --------------------------------------------------------------------------------------------------------


def board(cells: list[Cell]) -> list[Any]:
    """Returns one task's leaderboard, as ``compare`` would."""
    import polars as pl

    from peftu.data.task import tasks
    from peftu.plan import plan
    from peftu.results import MethodCost, summarise
    from peftu.system import System

    frames, costs, cards = [], {}, {}
    for cell in cells:
        users = cell["users"]
        frame = pl.DataFrame(users).with_columns(
            method=pl.lit(cell["method"]),
            base=pl.lit(cell["base"], dtype=pl.String),
            seed=pl.lit(cell["seed"], dtype=pl.Int64),
            user_id=pl.col("user").cast(pl.String).str.zfill(6),
            n_train=pl.lit(None, dtype=pl.Int64),
        )
        frames.append(frame.drop("user"))
        costs[System(cell["method"], cell["base"])] = MethodCost(
            parameters_per_user=cell["parameters"], bytes_per_user=cell["bytes"], seconds_per_user=cell["seconds"]
        )
        (job,) = plan(spec_of(cell["task"], cell["seed"], cell["asked"]))
        cards[job.card.name] = job.card
    leading = ["method", "base", "seed", "user_id", "n_train", "n_test", "n_scored"]
    scores = pl.concat(frames).select(*leading, pl.exclude(leading))
    return summarise(scores, tasks.get(cells[0]["task"]).card, costs, cards)


def boards(cells: list[Cell]) -> Rows:
    """Returns one task's rows, each with its number of seeds; gains are over references at the same seeds."""
    seeds: dict[tuple[str, str | None], set[int]] = {}
    for cell in cells:
        seeds.setdefault((cell["method"], cell["base"]), set()).add(cell["seed"])
    found = []
    for run in {frozenset(own) for own in seeds.values()}:
        beside = [
            cell for cell in cells if cell["seed"] in run
            and (seeds[cell["method"], cell["base"]] == run or cell["method"].partition("[")[0] in COMPARED)
        ]  # fmt: skip
        found += [(row, len(run)) for row in board(beside) if seeds[row.method, row.base] == run]
    return found


def table(task: str, cells: list[Cell], rows: Rows) -> list[str]:
    """Returns one task's section in Markdown, best first, and what was not run."""
    metric, scale, sign = _metric(cells)
    columns = ("method", "base", "seeds", f"{metric.name} [95 % interval]", "over user-majority", "over mixed-head")
    lines = [f"| {' | '.join(columns)} | own numbers | own KB | s a user |", "|---|---|---|---|---|---|---|---|---|"]
    for row, seeds in sorted(rows, key=lambda found: -sign * found[0].mean):
        gains = (_gain(row.gain.get(name), scale) if row.name != name else "" for name in COMPARED)
        low, high = (scale * bound for bound in row.ci)
        score = f"{scale * row.mean:.1f} [{low:.1f}, {high:.1f}]"
        cost = f"{row.parameters_per_user:,} | {row.bytes_per_user / 1000:,.1f} | {row.seconds_per_user:.2f}"
        lines.append(f"| `{row.method}` | {row.base or ''} | {seeds} | {score} | {' | '.join(gains)} | {cost} |")
    done = {(cell["seed"], cell["asked"]) for cell in cells}
    missing = {asked for of, seed, asked in wanted() if of == task and (seed, asked) not in done}
    begun = {asked for _, asked in done}
    users = len(cells[0]["users"]["user"])
    said = [f"{users} users.", verdict([row for row, _ in rows])]
    if missing - begun:
        said.append(f"Not run yet: {', '.join(f'`{name}`' for name in sorted(missing - begun))}.")
    if missing & begun:
        said.append("Not all seeds are run yet: the column says how many are.")
    return [f"## {task}", "", " ".join(said), "", *lines, ""]


def overview(tasks: dict[str, tuple[list[Cell], Rows]]) -> list[str]:
    """Returns one table of all methods and tasks: scores, and which differ from user-majority beyond the interval."""
    from scipy.stats import rankdata

    ranks: dict[str, list[float]] = {}
    shown: dict[str, dict[str, str]] = {}
    for task, (cells, rows) in tasks.items():
        _, scale, sign = _metric(cells)
        own = [row for row, _ in rows]
        for row, rank in zip(own, rankdata([-sign * row.mean for row in own]), strict=True):
            ranks.setdefault(row.label, []).append(float(rank))
            shown.setdefault(row.label, {})[task] = f"{scale * row.mean:.1f}{_mark(row)}"
    mean = {label: sum(own) / len(own) for label, own in ranks.items()}
    heads = [f"{task} ({_metric(cells)[0].name})" for task, (cells, _) in tasks.items()]
    lines = [f"| method | {' | '.join(heads)} | mean rank |", "|---" * (len(heads) + 2) + "|"]
    for label in sorted(mean, key=lambda label: mean[label]):
        cells_of = " | ".join(shown[label].get(task, "") for task in tasks)
        lines.append(f"| `{label.removesuffix(f'@{BASE}')}` | {cells_of} | {mean[label]:.1f} |")
    about = (
        "Each task's main metric in percent. ▲ better, ▼ worse than `user-majority`, beyond the interval of the paired "
        "difference (95 % each, not corrected for their number). Mean rank: over the tasks that a method was run on, "
        "1 is best; an empty cell was not run yet. Few users: most differences between methods are within chance."
    )
    return ["## All tasks", "", about, "", *lines, ""]


def _mark(row: Any) -> str:
    gain = row.gain.get("user-majority")
    if row.name == "user-majority" or gain is None or gain.ci is None:
        return ""
    return " ▲" if gain.ci[0] > 0 else " ▼" if gain.ci[1] < 0 else ""


def _metric(cells: list[Cell]) -> tuple[Any, float, int]:
    """Returns a task's main metric, what its numbers are multiplied by, and 1 or -1 where higher or lower is better."""
    from peftu.metrics import metrics

    metric = metrics.get(cells[0]["metric"])
    return metric, 100.0 if metric.percent else 1.0, 1 if metric.higher_is_better else -1


def verdict(rows: list[Any]) -> str:
    """Returns which methods beat mixed-head beyond the interval, and which fall behind it, in words."""
    gains = {
        row.label: row.gain["mixed-head"].ci for row in rows if row.name != "mixed-head" and "mixed-head" in row.gain
    }
    better = sorted(name for name, ci in gains.items() if ci and ci[0] > 0)
    worse = sorted(name for name, ci in gains.items() if ci and ci[1] < 0)
    even = len(gains) - len(better) - len(worse)
    named = ", ".join(f"`{name}`" for name in better) or "no method"
    return f"Beyond the interval {named} beats `mixed-head`; {len(worse)} fall behind it, {even} cannot be told apart."


def _gain(score: Any, scale: float) -> str:
    if score is None or score.mean is None or score.ci is None:
        return ""
    return f"{scale * score.mean:+.1f} [{scale * score.ci[0]:+.1f}, {scale * score.ci[1]:+.1f}]"


def page() -> str:
    """Returns docs/results.md."""
    cells = read()
    dates = sorted({cell["date"] for cell in cells})
    threads = {1: "one thread beside other work", 2: "two threads beside much other work"}
    machines = Counter(
        f"{cell['cpu']}, {cell['dtype']}, {threads.get(cell['threads'], str(cell['threads']) + ' threads')}"
        for cell in cells
        if cell["dtype"]
    )
    told = "; ".join(f"{machine} ({count} cells)" for machine, count in machines.most_common())
    apart = " Seconds of methods that ran on different ones do not compare." if len(machines) > 1 else ""
    out = [
        "# Results",
        "",
        "Within-user splits; per task the mean over users, with bootstrap intervals over users. Base:",
        f"`{BASE}` with its default region unless the table names another. The tables are made by",
        "`python benchmarks/results.py --page` from `benchmarks/results/results.jsonl`; running",
        "`python benchmarks/results.py --raw DIR` fills what is missing. Tasks other than tweeteval: one seed, at most",
        f"{SMALL['users']} users and {SMALL['max_items']} items a user, drawn by hash.",
        f"Settings of trained methods: the preset `{TWO}` ([below](#settings-the-preset-{TWO})) on tasks with two",
        f"labels, `{SEVERAL}` ([below](#settings-the-preset-{SEVERAL})) on the others; else a method's defaults.",
        "Own numbers: of each user alone; what all share comes on top. Intervals take the texts as given.",
        f"Measured {' to '.join(dict.fromkeys((dates[0], dates[-1])))}, {told}.{apart}",
        "",
    ]
    of = {task: [cell for cell in cells if cell["task"] == task] for task in TASKS}
    run = {task: (own, boards(own)) for task, own in of.items() if own}
    out += overview(run)
    for task in TASKS:
        out += table(task, *run[task]) if task in run else [f"## {task}", "", "Not run yet.", ""]
    return "\n".join([*out, *free_answers(), *settings(TWO), *settings(SEVERAL)])


def settings(name: str) -> list[str]:
    """Returns the section on a preset that cells were run with."""
    from peftu.preset import WARM, load_preset

    preset = load_preset(name)
    every = [(base, method, how) for base, of in preset.found.items() for method, how in of.items()]
    lines = ["| method | base | settings | validation loss |", "|---|---|---|---|"]
    for base, method, how in sorted(every, key=lambda one: one[2]["loss"]):
        found = ", ".join(f"{key}={value}" for key, value in preset.methods[base][method].items()) or "the defaults"
        name_of = f"{method.removeprefix(WARM)}[warm_start=global]" if method.startswith(WARM) else method
        lines.append(f"| `{name_of}` | {base} | {found} | {how['loss']:.3f} |")
    one, trials = every[0][2], sorted({how["trials"] for _, _, how in every})
    split, seeds = one["split"], ", ".join(map(str, one["seeds"]))
    about = (
        f"By `peftu tune` on {one['task']}, seed {seeds}: {split['users']} users, {split['max_items']} items each, "
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
    """Fills cells, or writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, help="folder with one folder a data set; otherwise downloaded")
    parser.add_argument("--minutes", type=float, default=90.0, help="start no further cell after so long")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--methods", default="", help="only these, with ; between them")
    parser.add_argument("--page", action="store_true", help="write docs/results.md and run nothing")
    arguments = parser.parse_args()
    if not arguments.page:
        methods = {method for method in arguments.methods.split(";") if method}
        fill(arguments.raw, arguments.minutes, set(arguments.tasks.split(",")), methods)
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
