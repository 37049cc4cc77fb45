"""What `history` is worth to somebody new, on rows and seeds that no result uses: its defaults were chosen by this.

    python benchmarks/personal_history.py --raw DIR [--tasks A,B] [--seeds 10,11] [--methods "M N"]
    python benchmarks/personal_history.py --page     # prints the table of what results/personal_history.json holds

The validation rows of `unseen-user` are of users with many rows, so nothing can be chosen for newcomers by them. Here
the newcomers of the split at a seed from 10 up are put aside. The other users are divided into five parts, and those of
each part are newcomers in turn: read by a shared model that was fitted without them, with what was learned on the other
parts, given k of their train rows drawn four times, judged by the rest. `mixed-head` is read likewise, its own weights
at their likeliest given the k rows, as enrolling finds them; its priors were searched once on all of these users.
"""

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from peftu.config import MethodSpec, SplitSpec
from peftu.data.load import load_task
from peftu.data.problem import Problem
from peftu.data.splits import make_problem, make_split
from peftu.data.table import UserTable
from peftu.files import write_atomic
from peftu.lab.lab import Lab, prompt_of
from peftu.methods.history import History
from peftu.methods.history_fit import learn
from peftu.methods.history_model import Past, Reader, Side
from peftu.methods.mixed import MixedHead
from peftu.stats import interval

RESULTS = Path(__file__).parent / "results" / "personal_history.json"
BASE = "all-minilm-l6-v2"
TASKS: dict[str, dict[str, Any]] = {
    "tweeteval": {},
    "epic": {"users": 74, "max_items": 50},
    "subjectivediscourse-response": {"max_items": 50},
    "hatexplain": {"users": 100, "max_items": 50},
}
HEAD = "mixed-head"
SIZES = (5, 10)
DRAWS = 4
Scores = npt.NDArray[np.float64]  # [users, 2] accuracy and log-likelihood a row


def development(table: UserTable, seed: int, limits: dict[str, Any]) -> Problem:
    """Returns the problem of the users who are no newcomers at this seed."""
    spec = SplitSpec(regime="unseen-user", k=5, **limits)
    first = make_problem(table, table.card, make_split(table, spec, seed))
    newcomers = {first.users[user] for user in first.user[first.rows("test")]}
    inner = table.frame.filter(~table.frame["user_id"].is_in(list(newcomers)))
    rest = UserTable(table.card, inner, table.hash, table.options, table.sources)
    within = SplitSpec(fractions=(0.8, 0.15, 0.05), **limits)
    return make_problem(rest, table.card, make_split(rest, within, seed))


def newcomers_read(reader: Reader, pasts: list[Past], k: int, exclusive: bool) -> Scores:
    """Returns what a reader reaches for users of whom it has k rows, on their others."""
    known = Side.of(pasts)
    draw, total = torch.Generator().manual_seed(100 + k), torch.zeros(len(pasts), 2)
    for _ in range(DRAWS):
        place = torch.where(known.real, torch.rand(known.real.shape, generator=draw), 2.0).argsort(1).argsort(1)
        seen = known.real & (place < torch.minimum(known.real.sum(1) - 1, torch.tensor(k))[:, None])
        judged = known.real & ~seen
        with torch.no_grad():
            chance = reader.logits(known, known, seen, exclusive).log_softmax(-1)
        right = chance.argmax(-1) == known.target.argmax(-1)
        likely = (chance * known.target).sum(-1)
        total += torch.stack([(each * judged).sum(1) / judged.sum(1) for each in (right, likely)], 1)
    return np.asarray(total.double() / DRAWS)


def measure(task: str, seeds: tuple[int, ...], methods: tuple[str, ...], raw: Path, priors: Any) -> dict[str, Any]:
    """Returns what the mixed head and each method reach for newcomers, and the method's gain, paired by user."""
    table = load_task(task, raw / task.partition("-")[0])
    reached: dict[tuple[int, str], list[Scores]] = {(k, name): [] for k in SIZES for name in (HEAD, *methods)}
    seconds = dict.fromkeys(methods, 0.0)
    for seed in seeds:
        problem = development(table, seed, TASKS[task])
        features = Lab(items=[(text, None) for text in problem.texts]).features(BASE, prompt_of(table.card, 256))
        head = MixedHead(**priors.get(str(seed), {})).fit(problem, features, seed)
        priors[str(seed)] = head.priors.model_dump()
        exclusive = problem.card.answers.exclusive
        for name in methods:
            method = History(**MethodSpec.parse(name).params)
            _, leaf, (past, held_out), start = method.begun(head, problem, seed)
            for part in np.unique(leaf):
                old, new = (np.flatnonzero(which) for which in (leaf != part, leaf == part))
                began = perf_counter()
                sides = ([pasts[user] for user in old] for pasts in (past, held_out))
                learned = learn(start, *sides, exclusive, -np.inf, method.settings(seed))
                seconds[name] += perf_counter() - began
                theirs = [past[user] for user in new if len(past[user].text) > 1]
                for k in SIZES:
                    reached[k, name].append(newcomers_read(learned.reader, theirs, k, exclusive))
                    if name == methods[0]:
                        reached[k, HEAD].append(newcomers_read(start, theirs, k, exclusive))
    lines = []
    for (k, name), parts in reached.items():
        both, head_both = np.concatenate(parts), np.concatenate(reached[k, HEAD])
        line = {"k": k, "method": name, "accuracy": both[:, 0].mean(), "log_likelihood": both[:, 1].mean()}
        if name != HEAD:
            accuracy, likelihood = (interval(column) for column in (both - head_both).T)
            line["gain"] = [accuracy.mean, accuracy.low, accuracy.high]
            line["likelier"] = [likelihood.mean, likelihood.low, likelihood.high]
            line["seconds"] = seconds[name] / len(seeds) / 5
        lines.append(line)
    about = {"task": task, "seeds": list(seeds), "users": len(np.concatenate(reached[SIZES[0], HEAD]))}
    return {**about, "date": datetime.now(UTC).date().isoformat(), "priors": priors, "lines": lines}


def table_of(results: list[dict[str, Any]]) -> str:
    """Returns the results in Markdown: accuracies and gains in points, likelihoods in nats a row."""
    rows = [
        "| task | newcomers | k | method | accuracy | gain [95 %] | log-likelihood | gain [95 %] |",
        "|---" * 8 + "|",
    ]
    for result in results:
        for line in sorted(result["lines"], key=lambda line: line["k"]):
            points = nats = ""
            if "gain" in line:
                points = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * value for value in line["gain"]))
                nats = "{:+.3f} [{:+.3f}, {:+.3f}]".format(*line["likelier"])
            rows.append(
                f"| {result['task']} | {result['users']} | {line['k']} | `{line['method']}` | "
                f"{100 * line['accuracy']:.1f} | {points} | {line['log_likelihood']:.3f} | {nats} |"
            )
    return "\n".join(rows)


def main() -> None:
    """Measures tasks, and writes them beside those measured before; of a task at the same seeds the methods join."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, help="folder with one folder a data set")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--seeds", default="10")
    parser.add_argument("--methods", default="history", help="with a space between two")
    parser.add_argument("--page", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    if arguments.page:
        print(table_of(list(results.values())))
        return
    seeds, methods = tuple(map(int, arguments.seeds.split(","))), tuple(arguments.methods.split(" "))
    for task in arguments.tasks.split(","):
        before = results.get(task, {})
        measured = measure(task, seeds, methods, arguments.raw, dict(before.get("priors", {})))
        print(table_of([measured]), flush=True)
        if before.get("seeds") == list(seeds):
            new = {(line["k"], line["method"]) for line in measured["lines"]}
            kept = [line for line in before["lines"] if (line["k"], line["method"]) not in new]
            measured["lines"] = kept + measured["lines"]
        results[task] = measured
        write_atomic(RESULTS, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
