"""The mixed head on real people's labels, what each of its parts is worth, and its speed with a thousand users.

    python benchmarks/mixed_head.py --raw DIR      # DIR holds tweeteval/ and epic/ as their publishers lay them out

Prints JSON: for every task and variant the accuracy averaged over users, per seed and with an interval over users, the
validation accuracy and likelihood, and the seconds of each fit. Priors are chosen on validation rows; the variants are
listed so that parts can be compared on ``val``, and test rows are scored once per variant and seed.
"""

import argparse
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from peftu.base.model import load_base
from peftu.config import SplitSpec
from peftu.data.load import load_task
from peftu.data.problem import Floats, Problem, Text
from peftu.data.splits import make_problem, make_split
from peftu.data.synthetic import synthetic_card
from peftu.environment import current_environment
from peftu.methods.method import FittedReference, ReferenceMethod
from peftu.methods.mixed import MixedHead
from peftu.methods.reference import GlobalMajority, UserMajority
from peftu.stats import interval

BASE = "all-minilm-l6-v2"
TASKS = ("tweeteval", "epic")
VARIANTS: dict[str, ReferenceMethod] = {
    "global-majority": GlobalMajority(),
    "user-majority": UserMajority(),
    "mixed-head": MixedHead(),
    "features=embedding": MixedHead(features="embedding"),
    "features=tfidf": MixedHead(features="tfidf"),
    "text=0": MixedHead(text=0),
    "slope=0": MixedHead(slope=0),
    "deviation=0": MixedHead(deviation=0),
    "slope=0,deviation=0": MixedHead(slope=0, deviation=0),
    "slope=0,deviation=0,bias=0": MixedHead(slope=0, deviation=0, bias=0),
}


class Vectors:
    """Each text's vector, looked up."""

    def __init__(self, vectors: dict[Text, npt.NDArray[np.float32]]) -> None:
        self.vectors = vectors

    def embed(self, texts: Any) -> Floats:
        """Returns [texts, width] the vectors."""
        return np.array([self.vectors[text] for text in texts])


def by_user(fitted: FittedReference, problem: Problem, part: str) -> npt.NDArray[np.float64]:
    """Returns the accuracy of each user with rows in the part, in user order; NaN for the others."""
    rows = problem.rows(part)
    right = (
        fitted.scores(problem.user[rows], [problem.texts[text] for text in problem.text[rows]]).argmax(1)
        == problem.label[rows]
    )
    users = len(problem.users)
    hits, seen = (np.bincount(problem.user[rows], weights, users) for weights in (right.astype(float), None))
    return np.divide(hits, seen, out=np.full(users, np.nan), where=seen > 0)


def measure(method: ReferenceMethod, problems: list[Problem], features: Vectors) -> dict[str, Any]:
    """Returns a variant's accuracies; users are the unit of the interval, each averaged over the seeds."""
    test, val, seconds, notes = [], [], [], []
    for seed, problem in enumerate(problems):
        begun = time.perf_counter()
        fitted = method.fit(problem, features, seed)
        seconds.append(time.perf_counter() - begun)
        test.append(by_user(fitted, problem, "test"))
        val.append(float(np.nanmean(by_user(fitted, problem, "val"))))
        notes.append(fitted.notes)
    estimate = interval(np.nanmean(test, axis=0))
    return {
        "mean": estimate.mean,
        "ci": [estimate.low, estimate.high],
        "seeds": [float(np.nanmean(scores)) for scores in test],
        "val": float(np.mean(val)),
        "val_log_likelihood": [each.get("val_log_likelihood") for each in notes],
        "priors": [each.get("priors") for each in notes],
        "fit_seconds": seconds,
    }


def real(task: str, raw: Path | None, seeds: int) -> dict[str, Any]:
    """Returns every variant's accuracies on one task."""
    table = load_task(task, raw / task if raw else None)
    problems = [make_problem(table, table.card, make_split(table, SplitSpec(), seed)) for seed in range(seeds)]
    texts = sorted({text for problem in problems for text in problem.texts}, key=str)
    begun = time.perf_counter()
    features = Vectors(dict(zip(texts, load_base(BASE).embed(texts), strict=True)))
    embedding = time.perf_counter() - begun
    results = {name: measure(method, problems, features) for name, method in VARIANTS.items()}
    return {"users": len(problems[0].users), "texts": len(texts), "embed_seconds": embedding, "variants": results}


def thousand(users: int = 1000, items: int = 100, texts: int = 5000, seed: int = 0) -> dict[str, Any]:
    """Returns the seconds of a fit, choice of priors and n-grams included, on made-up users with tastes."""
    draw = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = np.array(["".join(draw.choice(letters, draw.integers(3, 10))) for _ in range(20_000)])
    often = 1 / np.arange(1, len(words) + 1)
    picked = draw.choice(len(words), (texts, 15), p=often / often.sum())
    vectors = draw.normal(size=(len(words), 384)).astype(np.float32)[picked].mean(1)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    user = np.repeat(np.arange(users), items)
    text = np.concatenate([draw.choice(texts, items, replace=False) for _ in range(users)])
    shared, own = draw.normal(size=384), draw.normal(size=(users, 384))
    logit = 4 * (vectors @ shared)[text] + 3 * np.einsum("nk,nk->n", vectors[text], own[user])
    label = (logit + draw.normal(size=users)[user] + draw.logistic(size=len(user)) > 0).astype(int)
    problem = Problem(
        card=synthetic_card(),
        users=tuple(f"{number:06d}" for number in range(users)),
        texts=tuple(Text(" ".join(words[row])) for row in picked),
        item_ids=tuple(map(str, text)),
        user=user.astype(np.int32),
        text=text.astype(np.int32),
        part=np.tile(np.repeat([0, 1, 2], [items * 8 // 10, items // 10, items // 10]), users).astype(np.int8),
        target=np.eye(2, dtype=np.float32)[label],
        split_hash="sha256:none",
    )
    result: dict[str, Any] = {"users": users, "items": items, "texts": texts}
    lookup = Vectors(dict(zip(problem.texts, vectors, strict=True)))
    for name in ("user-majority", "features=embedding", "mixed-head"):
        begun = time.perf_counter()
        fitted = VARIANTS[name].fit(problem, lookup, seed)
        result[name] = {
            "seconds": time.perf_counter() - begun,
            "accuracy": float(np.nanmean(by_user(fitted, problem, "test"))),
            "priors_tried": fitted.notes.get("priors_tried"),
        }
    return result


def main() -> None:
    """Runs the comparison and prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, help="folder with one folder a task; otherwise downloaded")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    tasks = filter(None, arguments.tasks.split(","))
    result = {
        "benchmark": "mixed_head",
        "base": BASE,
        "tasks": {task: real(task, arguments.raw, arguments.seeds) for task in tasks},
        "thousand_users": thousand(),
        "environment": current_environment().model_dump(mode="json"),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
