"""Irony in nine languages, on the parts that LeWiDi-2025 published: the error rate of cheap models that know the user.

    python benchmarks/multipico.py --raw DIR       # DIR holds multipico/; fits what is not yet in the JSON, on train
    python benchmarks/multipico.py --raw DIR --test # reads the test part, once, with the candidate of least dev error
    python benchmarks/multipico.py --table         # print the committed JSON

The error rate is the shared task's for its perspectivist track: the share of an item's annotators who are predicted
wrongly, averaged over items. Candidates are fitted on the train part and compared on dev (part 'val'); the test part is
predicted by the chosen one alone, and only where the JSON holds no test figure of it. Each candidate is written as soon
as it is fitted, so a run that was interrupted goes on. Sentence vectors are kept in --vectors.
"""

import argparse
import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from peftu.config import SplitSpec
from peftu.data.load import load_task
from peftu.data.problem import Floats, Problem
from peftu.data.splits import make_problem, make_split
from peftu.environment import current_environment
from peftu.methods.method import FittedReference, ReferenceMethod
from peftu.methods.mixed import MixedHead
from peftu.methods.reference import UserMajority

RESULTS = Path(__file__).parent / "results" / "multipico.json"
BASE, SEED = "all-minilm-l6-v2", 0
PUBLISHED = {"winner": 0.289, "second": 0.300, "each annotator's commonest label": 0.316, "random": 0.499}
FIXED = {"rank": 0, "tfidf": 0.5, "embedding": 0.25, "text": 0.125, "bias": 0.7, "slope": 0.35}
ALONE = {**FIXED, "width": 0, "deviation": 0.0}
CANDIDATES: dict[str, ReferenceMethod] = {
    "user-majority": UserMajority(),
    "n-grams": MixedHead(**ALONE, features="tfidf"),
    "n-grams, embedding of both": MixedHead(**ALONE),
    "n-grams, embedding of the reply": MixedHead(**ALONE, context=False),
    "n-grams, embedding of the reply, user weights on 32": MixedHead(**FIXED, context=False, deviation=0.5),
    "n-grams, embedding of the reply, user weights on 96": MixedHead(**FIXED, context=False, width=96, deviation=0.5),
    "n-grams, embedding of the reply, form": MixedHead(**ALONE, context=False, form=True),
    "n-grams, embedding of the reply, form, user weights on 48": MixedHead(
        **FIXED, context=False, form=True, width=48, deviation=0.5
    ),
    "n-grams, embedding of the reply, form, user weights on 96": MixedHead(
        **FIXED, context=False, form=True, width=96, deviation=0.5
    ),
    "n-grams, embedding of the reply, form, stronger user weights on 48": MixedHead(
        **FIXED, context=False, form=True, width=48, deviation=0.7
    ),
    "n-grams, embedding of the reply, form, user weights on 48, looser": MixedHead(
        **{**FIXED, "tfidf": 0.6, "embedding": 0.35}, context=False, form=True, width=48, deviation=0.5
    ),
    "mixed-head[rank=0,context=false], its own search": MixedHead(rank=0, context=False),
    "mixed-head, its own search": MixedHead(),
}


class Vectors:
    """Sentence vectors of the base, computed once and kept in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def embed(self, texts: Any) -> Floats:
        """Returns [texts, width] the vectors."""
        path = self.folder / ("together.npy" if any(text.context for text in texts) else "apart.npy")
        if not path.exists():
            from peftu.base.model import load_base

            self.folder.mkdir(parents=True, exist_ok=True)
            np.save(path, load_base(BASE).embed(texts))
        return np.asarray(np.load(path), np.float32)


def error_rate(problem: Problem, rows: npt.NDArray[np.int64], label: npt.NDArray[np.int64]) -> float:
    """Returns the mean over items of the share of their rows whose label is not the predicted one."""
    _, item = np.unique(np.array(problem.item_ids)[rows], return_inverse=True)
    wrong = np.bincount(item, label != problem.label[rows])
    return float((wrong / np.bincount(item)).mean())


def judged(fitted: FittedReference, problem: Problem, part: str) -> dict[str, float]:
    """Returns error rate and accuracy on a part."""
    rows = problem.rows(part)
    label = fitted.scores(problem.user[rows], [problem.texts[text] for text in problem.text[rows]]).argmax(1)
    return {
        "items": len({problem.item_ids[row] for row in rows}),
        "rows": len(rows),
        "error_rate": error_rate(problem, rows, label),
        "accuracy": float((label == problem.label[rows]).mean()),
    }


def fitted_on_train(
    method: ReferenceMethod, problem: Problem, vectors: Vectors
) -> tuple[FittedReference, dict[str, Any]]:
    """Returns a fitted candidate, and what it is and took."""
    start, busy = time.perf_counter(), time.process_time()
    fitted = method.fit(problem, vectors, SEED)
    took = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - busy}
    knobs = getattr(method, "model_dump", dict)()
    return fitted, {
        "knobs": knobs,
        "notes": dict(fitted.notes),
        **{key: round(value, 1) for key, value in took.items()},
    }


def table(found: dict[str, Any]) -> str:
    """Returns what was measured in Markdown, best on dev first."""
    lines = ["| model | dev error | test error | s to fit |", "|---|---|---|---|"]
    for name, row in sorted(found["candidates"].items(), key=lambda pair: pair[1]["dev"]["error_rate"]):
        test = f"{row['test']['error_rate']:.4f}" if "test" in row else ""
        lines.append(f"| {name} | {row['dev']['error_rate']:.4f} | {test} | {row['cpu_seconds']:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Fits what is missing, reads the test part if asked, or prints what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, help="folder with one folder a data set; otherwise downloaded")
    parser.add_argument("--vectors", type=Path, default=Path("runs") / "multipico", help="where vectors are kept")
    parser.add_argument("--only", help="names of candidates, with semicolons; default: all")
    parser.add_argument("--test", action="store_true", help="predict the test part with the candidate best on dev")
    parser.add_argument("--table", action="store_true", help="print the committed JSON")
    given = parser.parse_args()
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"candidates": {}}
    if not given.table:
        table_ = load_task("multipico", given.raw and given.raw / "multipico")
        split = make_split(table_, SplitSpec(regime="published"), SEED)
        problem, vectors = make_problem(table_, table_.card, split), Vectors(given.vectors)
        about = {"task": "multipico", "regime": "published", "split": split.hash, "seed": SEED, "base": BASE}
        found = {**about, "published": PUBLISHED, "candidates": found["candidates"]}
        names = given.only.split(";") if given.only else list(CANDIDATES)
        if given.test:
            names = [min(found["candidates"], key=lambda name: found["candidates"][name]["dev"]["error_rate"])]
        for name in names:
            row = found["candidates"].get(name, {})
            if ("test" if given.test else "dev") in row:
                continue
            fitted, how = fitted_on_train(CANDIDATES[name], problem, vectors)
            row |= {**how, "dev": judged(fitted, problem, "val"), "date": datetime.now(UTC).date().isoformat()}
            row |= {"test": judged(fitted, problem, "test")} if given.test else {}
            row |= {"environment": current_environment().model_dump(mode="json"), "load": os.getloadavg()[1]}
            found["candidates"][name] = row
            RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            print(name, row["dev"], row.get("test", ""), flush=True)
    print(table(found))


if __name__ == "__main__":
    main()
