"""Comparisons whose numbers are committed in ``tests/golden/predictions``, one JSON file each.

``python tests/integration/comparisons.py [NAME …]`` writes them again: only for numbers that are meant to change.
"""

import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import polars as pl
import pytest
import torch

from peftu.config import MethodSpec, RegionSpec, RunSpec
from peftu.data.sources import cache_dir
from peftu.data.synthetic import synthetic_card, synthetic_rows
from peftu.data.task import Kind, tasks
from peftu.execute.run import run
from peftu.experiment import method_list
from peftu.results import RunRecord, load_run
from peftu.testing.bases import save_tiny

FOLDER = Path(__file__).resolve().parents[1] / "golden" / "predictions"
FAMILIES = ("llama", "gpt2", "bert", "t5")
KINDS: tuple[Kind, ...] = ("single", "ordinal", "multi", "text")
USERS, ITEMS = 4, 16
PARTS = {"fractions": (0.6, 0.2, 0.2)}
ROW = ("seed", "user_id", "item_id", "part", "target")

LABELLED = (
    "user-majority,mixed-head[features=tfidf],mixed-head@./bert,zero-shot,retrieval,lora[rank=2],user-embedding,"
    "personal-head"
)
REAL_SETTINGS: dict[str, Any] = {"region": None, "train": {"epochs": 2, "lr": 0.003}, "max_tokens": 64}


@dataclass(frozen=True)
class Comparison:
    """What is run: methods as on the command line, on the made-up task of a kind; the rest is a RunSpec's."""

    kind: Kind
    methods: str
    base: str = "./llama"
    settings: dict[str, Any] = field(default_factory=dict)
    users: int = USERS

    def spec(self) -> RunSpec:
        """Returns the run's spec."""
        asked = tuple(MethodSpec.parse(part) for part in method_list(self.methods))
        region = RegionSpec(depth=2, span="answer")
        common: dict[str, Any] = {"region": region, "train": {"epochs": 2, "lr": 0.03}, "split": PARTS, **self.settings}
        common["task_options"] = {"users": self.users}
        return RunSpec(task=task_name(self.kind), methods=asked, base=self.base, **common)


COMPARISONS = {
    "single-references": Comparison(
        "single",
        "global-majority,user-majority,mixed-head,mixed-head@./bert,mixed-head[features=tfidf],lore@./bert,"
        "history@./bert",
    ),
    "single-prompting": Comparison("single", "zero-shot,few-shot,retrieval,profile,zero-shot@./bert,few-shot@./t5"),
    "single-shared": Comparison(
        "single",
        "global[method=ia3],global,lora[rank=2],lora[warm_start=global],lora[rank=1,shrink=0.1,warm_start=global]",
    ),
    "single-joint": Comparison("single", "user-embedding,user-token,hypernet,random-effects"),
    "single-modules": Comparison(
        "single",
        "lora,ia3,prompt-tuning,prefix-tuning,p-tuning,alora,vera,bitfit,adapter-houlsby,adapter-pfeiffer,"
        "personal-head,full[max_users=4]",
        settings={"region": RegionSpec(depth=1)},
    ),
    "single-guard": Comparison("single", "lora+guard[rank=2],user-majority", settings={"seeds": (0, 1)}),
    "single-default-region": Comparison(
        "single", "lora,adapter-houlsby@./gpt2,lora@./t5,bitfit@./bert,user-embedding@./bert", settings={"region": None}
    ),
    "ordinal": Comparison("ordinal", f"{LABELLED},global", settings={"seeds": (0, 1)}),
    "ordinal-unseen-user": Comparison(
        "ordinal",
        "mixed-head,lora,user-token",
        settings={"split": {**PARTS, "regime": "unseen-user", "k": 3}, "max_tokens": 20},
        users=6,
    ),
    "multi": Comparison("multi", f"{LABELLED},few-shot,vera,prefix-tuning,hypernet,lora+guard[rank=2]"),
    "text": Comparison("text", "zero-shot,few-shot,lora[rank=2],prefix-tuning,user-embedding,global"),
    "text-generated": Comparison(
        "text", "zero-shot,retrieval,lora[rank=2],ia3@./t5", settings={"generate": True, "max_answer_tokens": 8}
    ),
}

REAL = {
    "real-decoder": Comparison("single", "zero-shot,few-shot,lora[rank=2]", "smollm2-135m-instruct", REAL_SETTINGS, 3),
    "real-encoder": Comparison("single", "mixed-head,lora[rank=2]", "all-minilm-l6-v2", REAL_SETTINGS, 3),
}


def task_name(kind: Kind) -> str:
    """Returns the name under which the made-up task of a kind is registered."""
    return f"golden-{kind}"


def _task(task_kind: Kind) -> type[Any]:
    class Made:
        card = synthetic_card(task_kind)

        def rows(self, raw: Path, users: int = USERS, items: int = ITEMS) -> Iterator[Any]:
            yield from synthetic_rows(users, items, task_kind)

    return Made


@contextmanager
def place(home: Path) -> Iterator[None]:
    """Makes a folder the working one, with tiny bases, the tasks' raw file and their registration.

    Bases are read as float32, whatever the processor can do; real ones come from the cache that was in use.
    """
    for family in FAMILIES:
        save_tiny(family, home / family)
    (home / "raw").mkdir()
    (home / "raw" / "none.txt").write_text("nothing is read\n")
    level = logging.getLogger("transformers").level
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "_loaded", {})
        for kind in KINDS:
            tasks.add(task_name(kind), _task(kind))
        (home / "cache").mkdir()
        (home / "cache" / "bases").symlink_to(cache_dir() / "bases")
        patch.setenv("PEFTU_CACHE", str(home / "cache"))
        patch.chdir(home)
        yield
    logging.getLogger("transformers").setLevel(level)


def run_without_report(spec: RunSpec, out: Path) -> RunRecord:
    """Returns the record of a run; its report would take longer than all the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "peftu.report.charts.drawing", None)  # as where the report extra is not installed
        return run(spec, out, Path("raw"))[1]


def measured(comparison: Comparison, out: Path) -> dict[str, Any]:
    """Returns what a comparison comes to: its rows once and, of each method, costs, notes, predictions and scores."""
    record = run_without_report(comparison.spec(), out)
    frame = load_run(out).predictions()
    methods = {}
    rows: list[Any] | None = None
    for result in record.methods:
        cell = frame.filter((pl.col("method") == result.method) & pl.col("base").eq_missing(pl.lit(result.base)))
        own = [list(row) for row in cell.select(ROW).iter_rows()]
        rows = rows or own
        assert own == rows
        methods[result.label] = {
            "parameters": result.parameters_per_user,
            "bytes": result.bytes_per_user,
            "uses_others_labels": result.uses_others_labels,
            "notes": result.notes,
            "predicted": cell["predicted"].to_list(),
            "scores": [None if row is None else [rounded(x) for x in row] for row in cell["scores"].to_list()],
        }
    told = {
        "dtypes": record.dtypes,
        "truncated": record.truncated_texts,
        "shortened": record.shortened_texts,
        "warnings": list(record.warnings),
    }
    return json.loads(json.dumps({"arithmetic": arithmetic(), "told": told, "rows": rows, "methods": methods}))


def rounded(number: float) -> float:
    """Returns a float32 with the digits that tell it from its neighbours."""
    return float(f"{number:.9g}")


def arithmetic() -> str:
    """Returns what names how this machine rounds: a checksum over the bits of a few products and curves.

    Another processor or another release of torch adds in another order; there numbers agree to fewer digits.
    """
    made = np.random.Generator(np.random.PCG64(0)).normal(size=(2, 96, 96))
    x, w = torch.from_numpy(made).clone()
    single = torch.softmax(torch.nn.functional.gelu(x.float() @ w.float()), -1)
    return f"{crc32(single.numpy().tobytes()):08x}-{crc32(torch.exp(x @ w / 96).numpy().tobytes()):08x}"


def write(name: str, found: dict[str, Any]) -> None:
    """Writes a comparison's golden numbers."""
    rows, methods = found.pop("rows"), found.pop("methods")
    lines = [f'"{key}": {json.dumps(value)}' for key, value in {**found, "rows": rows}.items()]
    lines.append('"methods": {\n' + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in methods.items()) + "\n}")
    (FOLDER / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def main(names: list[str]) -> None:
    """Writes the golden numbers of these comparisons, or of all."""
    torch.set_num_threads(1)
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as home, place(Path(home)):
        for name in names or (*COMPARISONS, *REAL):
            write(name, measured((COMPARISONS | REAL)[name], Path(home) / "runs" / name))
        os.chdir(here)


if __name__ == "__main__":
    main(sys.argv[1:])
