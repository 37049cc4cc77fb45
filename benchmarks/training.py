"""Training speed: thousands of users in cohorts against a fair loop over `peft`, one user after another.

    python benchmarks/training.py --raw DIR [--quick] [--json]     # DIR holds annotations_g3.csv

Both sides use the same base in the same dtype, loaded once, the same users, rows, rank and targets, batch 8 and dynamic
padding. A repetition times both one after the other in one process; the ratio of their users an hour is the result, and
the median over repetitions is printed. ``--quick`` times a few steps of each and extrapolates to 8 epochs (marked
``extrapolated``); without it whole trainings are timed.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from transformers import AutoModel, AutoModelForCausalLM

from peftu.bank import Layout
from peftu.base.model import FrozenBase, best_dtype, load_base
from peftu.base.weights import resolve_weights
from peftu.config import RegionSpec, SplitSpec, TrainSpec
from peftu.data.load import load_task
from peftu.data.splits import make_problem, make_split
from peftu.environment import current_environment
from peftu.execute.cells import prompt_of
from peftu.execute.estimate import layer_flops, matmul_rate
from peftu.methods.lora import Lora
from peftu.train import Examples, Unit, train

EPOCHS, BATCH, RANK = 8, 8, 8
TARGETS = {"decoder": ("q", "v"), "encoder": ("q", "v")}
PEFT_NAMES = {"decoder": ["q_proj", "v_proj"], "encoder": ["query", "value"]}
HISTORY = Path(__file__).parent / "results" / "training.jsonl"


class Workload:
    """TweetEval's users as units, and each text's tokens for the loop over `peft`."""

    def __init__(self, raw: Path | None, users: int) -> None:
        table = load_task("tweeteval", raw)
        self.problem = make_problem(table, table.card, make_split(table, SplitSpec(users=users)))
        self.prompt = prompt_of(table.card, 256)
        self.units = [self._unit(number, key) for number, key in enumerate(self.problem.users)]

    def _unit(self, number: int, key: str) -> Unit:
        parts = []
        for part in ("train", "val"):
            rows = self.problem.rows(part, number)
            ones = np.ones(len(rows), dtype=np.float32)
            parts.append(Examples(self.problem.text[rows].astype(np.int64), self.problem.target[rows], ones))
        return Unit(key, *parts)


# --- ours ---------------------------------------------------------------------------------------------------------


def ours(base: FrozenBase, work: Workload, region: RegionSpec, steps: int | None) -> tuple[float, float]:
    """Returns seconds a user for 8 epochs (prefill and validation in), and the seconds of one training row.

    With ``steps``, that many steps of every user are timed, and the rest extrapolated.
    """
    start = time.perf_counter()
    context = base.prefill(work.prompt, work.problem.texts, base.region(region))
    prefill = time.perf_counter() - start
    layout = Layout(Lora(rank=RANK, targets=TARGETS[base.family.kind]), base.sites(base.region(region), 2))
    units, epochs = work.units, EPOCHS
    if steps is not None:  # a short epoch, so that a few steps are a whole training
        units = [Unit(u.key, _first(u.train, steps * BATCH), _first(u.val, 0)) for u in work.units]
        epochs = 1
    spec = TrainSpec(epochs=epochs, batch=BATCH, patience=epochs, lr=1e-3)
    start = time.perf_counter()
    train(base, context, layout, units, spec, seed=0)
    seconds = time.perf_counter() - start
    rows = sum(len(u.train) for u in units) * epochs
    if steps is None:
        return (prefill + seconds) / len(units), seconds / rows
    whole = sum(len(u.train) * EPOCHS + len(u.val) * (EPOCHS + 1) / 3 for u in work.units)  # a forward is 1/3 of a step
    return (prefill + seconds / rows * whole) / len(units), seconds / rows


def _first(examples: Examples, rows: int) -> Examples:
    return Examples(examples.text[:rows], examples.target[:rows], examples.weight[:rows])


# --- the loop over peft --------------------------------------------------------------------------------------------


def peft_loop(base: FrozenBase, work: Workload, depth: int | None) -> Callable[[int | None], float]:
    """Returns a function that trains users one after another and returns seconds a user.

    Args:
        base: gives the tokens and the dtype, so that both sides read the same.
        work: users and texts.
        depth: LoRA in the top layers only, or None for all.
    """
    kind = base.family.kind
    folder = resolve_weights(base.name)
    model = (AutoModelForCausalLM if kind == "decoder" else AutoModel).from_pretrained(folder, dtype=base.dtype)
    layers = base.family.layers
    config = peft.LoraConfig(
        r=RANK,
        lora_alpha=16,
        target_modules=PEFT_NAMES[kind],
        layers_to_transform=None if depth is None else list(range(layers - depth, layers)),
        task_type="CAUSAL_LM" if kind == "decoder" else "FEATURE_EXTRACTION",
    )
    model = peft.get_peft_model(model, config).train()
    tokens = _decoder_tokens(base, work) if kind == "decoder" else _encoder_tokens(base, work)
    head = torch.nn.Linear(base.family.width, 2)
    fresh = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    def loss(rows: list[int], gold: torch.Tensor) -> torch.Tensor:
        if kind == "decoder":
            return _decoder_loss(model, [tokens[r] + [tokens[-2 + int(g)][0]] for r, g in zip(rows, gold, strict=True)])
        ids, mask = _right_padded([tokens[r] for r in rows])
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return torch.nn.functional.cross_entropy(head(pooled), gold)

    def run(steps: int | None) -> float:
        seconds = []
        for unit in work.units[: 1 if steps is not None else 2]:
            with torch.no_grad():
                for name, p in model.named_parameters():
                    if name in fresh:
                        p.copy_(fresh[name])
            trainable = [p for p in model.parameters() if p.requires_grad] + list(head.parameters())
            optimiser = torch.optim.AdamW(trainable, lr=1e-3)
            gold = torch.from_numpy(unit.train.target.argmax(1))
            order = np.random.default_rng(0).permutation(len(unit.train))
            batches = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
            if steps is None:
                batches = batches * EPOCHS
            start = time.perf_counter()
            for batch in batches[:steps]:
                loss([int(unit.train.text[i]) for i in batch], gold[batch]).backward()
                torch.nn.utils.clip_grad_norm_(trainable, 1.0)
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            elapsed = time.perf_counter() - start
            whole = -(-len(unit.train) // BATCH) * EPOCHS
            seconds.append(elapsed if steps is None else elapsed / steps * whole)
        return statistics.mean(seconds)

    return run


def _decoder_tokens(base: FrozenBase, work: Workload) -> list[list[int]]:
    family: Any = base.family
    head, tail, words = family.frame(work.prompt)
    bodies = family.tokenizer([work.prompt.body(t) for t in work.problem.texts], add_special_tokens=False)["input_ids"]
    return [head + body + tail for body in bodies] + words


def _encoder_tokens(base: FrozenBase, work: Workload) -> list[list[int]]:
    tokens: list[list[int]] = base.family.tokenizer([t.text for t in work.problem.texts])["input_ids"]  # type: ignore[attr-defined]
    return tokens


def _decoder_loss(model: Any, rows: list[list[int]]) -> torch.Tensor:
    """Returns the language-model loss on the answer token, as peft's own examples compute it."""
    ids, mask = _right_padded(rows)
    labels = torch.full_like(ids, -100)
    last = mask.sum(1) - 1
    labels[torch.arange(len(rows)), last] = ids[torch.arange(len(rows)), last]
    loss: torch.Tensor = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    return loss


def _right_padded(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return ids, mask


# --- the comparison ------------------------------------------------------------------------------------------------


def compare(raw: Path | None, quick: bool) -> dict[str, Any]:
    """Returns ratios, their repetitions and the share of the matmul rate."""
    work = Workload(raw, users=20)
    decoder, encoder = load_base("smollm2-135m-instruct"), load_base("all-minilm-l6-v2", dtype=torch.float32)
    loops = {
        "decoder": peft_loop(decoder, work, None),
        "encoder": peft_loop(encoder, work, 2),
    }
    cases: dict[str, tuple[FrozenBase, RegionSpec, str, int, int]] = {
        "equal_work": (decoder, RegionSpec(), "decoder", 1, 4),
        "answer_depth6": (decoder, RegionSpec(depth=6, span="answer"), "decoder", 8, 4),
        "minilm_top2": (encoder, RegionSpec(depth=2), "encoder", 20, 20),
    }
    repetitions = 3 if quick else 2
    found: dict[str, list[dict[str, float]]] = {name: [] for name in cases}
    shares: list[float] = []
    for _ in range(repetitions):
        for name, (base, region, loop, steps, loop_steps) in cases.items():
            mine, row = ours(base, work, region, steps if quick else None)
            theirs = loops[loop](loop_steps if quick else None)
            found[name].append({"ours": mine, "peft": theirs, "ratio": theirs / mine})
            print(f"{name}: ours {mine:.2f} s a user, peft {theirs:.1f} s, ratio {theirs / mine:.1f}", file=sys.stderr)
            if name == "answer_depth6":
                span = 6  # tokens from the end of the text to the answer
                shares.append(2 * span * 6 * layer_flops(base) / row / matmul_rate(base))
    return {
        "benchmark": "training",
        "quick": quick,
        "extrapolated": quick,
        "ratios": {name: statistics.median(r["ratio"] for r in rows) for name, rows in found.items()},
        "matmul_share": statistics.median(shares),
        "repetitions": found,
        "users": len(work.units),
        "epochs": EPOCHS,
        "rank": RANK,
        "targets": list(TARGETS["decoder"]),
        "dtype": str(best_dtype(torch.device("cpu"))),
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
        "environment": current_environment().model_dump(mode="json"),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def main() -> None:
    """Runs the comparison and adds a line to the history."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--raw", type=Path, help="folder with annotations_g3.csv; otherwise downloaded")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result = compare(arguments.raw, arguments.quick)
    if arguments.json:
        print(json.dumps(result))
    else:
        print(json.dumps({key: result[key] for key in ("ratios", "matmul_share")}, indent=1))
    HISTORY.parent.mkdir(exist_ok=True)
    with HISTORY.open("a", encoding="utf-8") as file:
        file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
