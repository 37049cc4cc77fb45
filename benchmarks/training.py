"""Training speed: thousands of users in cohorts against a fair loop over `peft`, one user after another.

    python benchmarks/training.py --raw DIR [--quick] [--json]     # DIR holds tweeteval/

Both sides use the same base in the same dtype, loaded once, the same users, rows, rank and targets, batch 8 and dynamic
padding. A repetition times both one after the other in one process; the ratio of their users an hour is the result, and
the median over repetitions is printed. ``--quick`` times a few steps of each and extrapolates to 8 epochs (marked
``extrapolated``). Without it more steps are timed, the reference's way is timed too (the base loaded again for every
user, every row padded to 512 tokens; two steps, extrapolated and marked so), and users are made up, 10 to 10,000 of
them, to see how time and memory grow.

``ratios`` are of wall time. ``cpu_ratios`` are of processor time, which other work on the machine disturbs less.
``matmul_share`` is the share of the machine's measured matmul rate that the training step reaches, by counted FLOPs;
``profile`` says which of PyTorch's operations the step's time goes to. ``default`` is peftu's default region.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, AutoModelForCausalLM

from peftu.bank import Layout
from peftu.base.families.family import Context
from peftu.base.model import FrozenBase, load_base
from peftu.base.weights import resolve_weights
from peftu.config import RegionSpec, SplitSpec, TrainSpec
from peftu.data.load import load_task
from peftu.data.splits import make_problem, make_split
from peftu.environment import current_environment
from peftu.lab.cost import measured
from peftu.lab.lab import prompt_of
from peftu.methods.lora import Lora
from peftu.testing import CPU
from peftu.train import cohort_size, train
from peftu.train_rows import Examples, Unit

EPOCHS, BATCH, RANK = 8, 8, 8
GROWTH = (10, 100, 1000, 10_000)
TARGETS = {"decoder": ("q", "v"), "encoder": ("q", "v")}
PEFT_NAMES = {"decoder": ["q_proj", "v_proj"], "encoder": ["query", "value"]}
HISTORY = Path(__file__).parent / "results" / "training.jsonl"


class Workload:
    """TweetEval's users as units, and each text's tokens for the loop over `peft`."""

    def __init__(self, raw: Path | None, users: int) -> None:
        table = load_task("tweeteval", raw and raw / "tweeteval")
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


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        base: the base of both sides.
        region: where ours acts.
        loop: which loop it is compared with.
        users: how many of the users ours trains at once.
        steps: how many steps of each are timed.
    """

    base: FrozenBase
    region: RegionSpec
    loop: str
    users: int
    steps: int


class Clock:
    """Wall and processor time since it was made."""

    def __init__(self) -> None:
        self.start = self._now()

    def _now(self) -> np.ndarray:
        return np.array([time.perf_counter(), time.process_time()])

    def read(self) -> np.ndarray:
        """Returns seconds of the wall clock and of the processor."""
        return self._now() - self.start


def ours(case: Case, work: Workload) -> dict[str, float]:
    """Returns seconds a user for 8 epochs (prefill and validation in), and what a training row costs.

    Some steps of some users are timed, the rest is extrapolated; a row read without a gradient counts as a third.
    """
    base, region = case.base, case.base.region(case.region)
    clock = Clock()
    context = base.prefill(work.prompt, work.problem.texts, region)
    prefill = clock.read()
    layout, units, spec = _steps(case, work)
    train(base, context, layout, [Unit(u.key, _some(u.train, BATCH), u.val) for u in units[:2]], spec, seed=0)
    clock = Clock()
    train(base, context, layout, units, spec, seed=0)
    row = clock.read() / sum(len(u.train) for u in units)
    whole = sum(len(u.train) * EPOCHS + len(u.val) * (EPOCHS + 1) / 3 for u in work.units)
    wall, cpu = (prefill + row * whole) / len(work.units)
    return {
        "ours": wall,
        "ours_cpu": cpu,
        "row_seconds": row[0],
        "share": row_flops(base, context, layout, units, spec) / row[0] / matmul_rate(base),
    }


def matmul_rate(base: FrozenBase) -> float:
    """Returns this machine's multiply-adds ×2 a second in the base's dtype: the best of short trials, 0.1 s in all."""
    a = torch.randn(512, 512, device=base.device).to(base.dtype)
    rounds, best = 10, float("inf")
    end = time.perf_counter() + 0.1
    while time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(rounds):
            a @ a
        if base.device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * 512**3 * rounds / best


def row_flops(base: FrozenBase, context: Context, layout: Layout, units: list[Unit], spec: TrainSpec) -> float:
    """Returns the FLOPs of all matrix products of a training step, forwards and backwards, for each row."""
    some = [Unit(u.key, _some(u.train, BATCH), u.val) for u in units[:4]]
    with FlopCounterMode(display=False) as counter:
        train(base, context, layout, some, spec, seed=0)
    return counter.get_total_flops() / sum(len(u.train) for u in some)


def profiled(case: Case, work: Workload, least: float = 0.02) -> dict[str, float]:
    """Returns the share of a training step's time that each of PyTorch's operations takes, the dearest first."""
    context = case.base.prefill(work.prompt, work.problem.texts, case.base.region(case.region))
    layout, units, spec = _steps(case, work)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        train(case.base, context, layout, units, spec, seed=0)
    spent = {event.key: event.self_cpu_time_total for event in seen.key_averages()}
    shares = {name: time / sum(spent.values()) for name, time in sorted(spent.items(), key=lambda pair: -pair[1])}
    return {name: round(share, 3) for name, share in shares.items() if share >= least}


def _steps(case: Case, work: Workload) -> tuple[Layout, list[Unit], TrainSpec]:
    """Returns what the timed steps of a case train: the modules' layout, the users with their rows, and how."""
    lora = Lora(rank=RANK, targets=TARGETS[case.base.family.kind])
    layout = Layout(lora, case.base.sites(case.base.region(case.region), 2))
    units = [Unit(u.key, _some(u.train, case.steps * BATCH), _some(u.val, 0)) for u in work.units[: case.users]]
    return layout, units, TrainSpec(epochs=1, batch=BATCH, patience=1, lr=1e-3)


def _some(examples: Examples, rows: int) -> Examples:
    """Returns so many of the rows, drawn: the first would be the same few texts for everybody."""
    drawn = np.random.default_rng(examples.text).permutation(len(examples))[:rows]  # other rows for each user
    return Examples(examples.text[drawn], examples.target[drawn], examples.weight[drawn])


# --- the loop over peft --------------------------------------------------------------------------------------------


def peft_loop(
    base: FrozenBase, work: Workload, depth: int | None, padded_to: int | None = None
) -> Callable[[int], np.ndarray]:
    """Returns a function that times so many steps of a user's training: wall and processor seconds for 8 epochs.

    Args:
        base: gives the tokens and the dtype, so that both sides read the same.
        work: users and texts.
        depth: LoRA in the top layers only, or None for all.
        padded_to: tokens that every row is padded to; None: the longest of the batch.
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
            said = [tokens[r] + [tokens[-2 + int(g)][0]] for r, g in zip(rows, gold, strict=True)]
            return _decoder_loss(model, said, padded_to)
        ids, mask = _right_padded([tokens[r] for r in rows])
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return torch.nn.functional.cross_entropy(head(pooled), gold)

    def run(steps: int) -> np.ndarray:
        unit = work.units[0]
        with torch.no_grad():
            for name, p in model.named_parameters():
                if name in fresh:
                    p.copy_(fresh[name])
        trainable = [p for p in model.parameters() if p.requires_grad] + list(head.parameters())
        optimiser = torch.optim.AdamW(trainable, lr=1e-3)
        gold = torch.from_numpy(unit.train.target.argmax(1))
        order = np.random.default_rng(0).permutation(len(unit.train))
        batches = [order[i : i + BATCH] for i in range(0, len(order), BATCH)] * EPOCHS
        clock = Clock()
        for number, batch in enumerate(batches[: steps + 1]):
            if number == 1:  # the first warms up
                clock = Clock()
            loss([int(unit.train.text[i]) for i in batch], gold[batch]).backward()
            torch.nn.utils.clip_grad_norm_(trainable, 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        return clock.read() / steps * len(batches)

    return run


def reference_way(base: FrozenBase, work: Workload, steps: int = 2) -> dict[str, Any]:
    """Returns seconds a user of the reference's way: the base loaded for each user, rows padded to 512 tokens."""
    start = time.perf_counter()
    run = peft_loop(base, work, None, padded_to=512)
    loading = time.perf_counter() - start
    return {"seconds": loading + run(steps)[0], "loading": loading, "steps": steps, "extrapolated": True}


def _decoder_tokens(base: FrozenBase, work: Workload) -> list[list[int]]:
    reader = base.family.reader
    return reader.read(work.prompt, work.problem.texts).lists + reader.ending(work.prompt).words


def _encoder_tokens(base: FrozenBase, work: Workload) -> list[list[int]]:
    tokens: list[list[int]] = base.family.tokenizer([t.text for t in work.problem.texts])["input_ids"]  # type: ignore[attr-defined]
    return tokens


def _decoder_loss(model: Any, rows: list[list[int]], padded_to: int | None) -> torch.Tensor:
    """Returns the language-model loss on the answer token, as peft's own examples compute it."""
    ids, mask = _right_padded(rows, padded_to)
    labels = torch.full_like(ids, -100)
    last = mask.sum(1) - 1
    labels[torch.arange(len(rows)), last] = ids[torch.arange(len(rows)), last]
    loss: torch.Tensor = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    return loss


def _right_padded(rows: list[list[int]], padded_to: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    longest = padded_to or max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return ids, mask


# --- growth --------------------------------------------------------------------------------------------------------


def growth(base: FrozenBase, work: Workload, users: int) -> dict[str, float]:
    """Returns what training so many users with random labels takes: the smallest region, LoRA of rank 1, 8 rows."""
    region = base.region(RegionSpec(depth=1, span="answer"))
    context = base.prefill(work.prompt, work.problem.texts, region)
    layout = Layout(Lora(rank=1, targets=("q", "v")), base.sites(region, 2))
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(work.problem.texts), (users, BATCH))
    targets, ones = np.eye(2, dtype=np.float32)[rng.integers(0, 2, (users, BATCH))], np.ones(BATCH, dtype=np.float32)
    nothing = Examples(rows[0, :0], targets[0, :0], ones[:0])
    units = [Unit(str(n), Examples(rows[n], targets[n], ones), nothing) for n in range(users)]
    with measured() as cost:
        train(base, context, layout, units, TrainSpec(epochs=1, batch=BATCH, patience=1, lr=1e-3), seed=0)
    return {
        "users": users,
        "seconds_per_user": cost.seconds / users,
        "users_per_hour": 3600 * users / cost.seconds,
        "peak_rss_bytes": cost.peak_rss_bytes,
        "module_bytes": 4 * layout.width,
        "cohort": cohort_size(base, context, layout, TrainSpec(batch=BATCH)),
    }


def grown(raw: Path | None) -> dict[str, Any]:
    """Returns what more and more users take, and where it was measured."""
    base, work = load_base("smollm2-135m-instruct"), Workload(raw, users=20)
    return {
        "benchmark": "training",
        "growth": [growth(base, work, users) for users in GROWTH],
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "environment": current_environment().model_dump(mode="json"),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


# --- the comparison ------------------------------------------------------------------------------------------------


def compare(raw: Path | None, quick: bool) -> dict[str, Any]:
    """Returns ratios, their repetitions and the share of the matmul rate."""
    work = Workload(raw, users=20)
    decoder, encoder = load_base("smollm2-135m-instruct"), load_base("all-minilm-l6-v2")
    loops = {"decoder": peft_loop(decoder, work, None), "encoder": peft_loop(encoder, work, 2)}
    loop_steps = {"decoder": 4 if quick else 20, "encoder": 20 if quick else 100}
    more = 1 if quick else 4
    cases = {
        "equal_work": Case(decoder, RegionSpec(), "decoder", 4, more),
        "answer_depth6": Case(decoder, RegionSpec(depth=6, span="answer"), "decoder", 20, 2 * more),
        "default": Case(decoder, decoder.default_region, "decoder", 20, 2 * more),
        "minilm_top2": Case(encoder, RegionSpec(depth=2), "encoder", 20, 5 * more),
    }
    if not quick:
        exact = load_base("all-minilm-l6-v2", CPU)
        loops["encoder, float32"] = peft_loop(exact, work, 2)
        loop_steps["encoder, float32"] = 100
        cases["minilm_top2_float32"] = Case(exact, RegionSpec(depth=2), "encoder, float32", 20, 10)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in cases}
    for _ in range(3 if quick else 5):
        theirs = {name: loop(loop_steps[name]) for name, loop in loops.items()}
        for name, case in cases.items():
            mine, (wall, cpu) = ours(case, work), theirs[case.loop]
            both = {"peft": wall, "peft_cpu": cpu, "ratio": wall / mine["ours"], "cpu_ratio": cpu / mine["ours_cpu"]}
            found[name].append(mine | both)
            print(name, {key: round(value, 2) for key, value in found[name][-1].items()}, file=sys.stderr)
    shares = {name: statistics.median(r["share"] for r in rows) for name, rows in found.items()}
    result: dict[str, Any] = {
        "benchmark": "training",
        "quick": quick,
        "extrapolated": True,
        "ratios": {name: statistics.median(r["ratio"] for r in rows) for name, rows in found.items()},
        "cpu_ratios": {name: statistics.median(r["cpu_ratio"] for r in rows) for name, rows in found.items()},
        "matmul_share": shares["answer_depth6"],
        "matmul_shares": shares,
        "profile": {name: profiled(case, work) for name, case in cases.items()},
        "matmul_rate": {"decoder": matmul_rate(decoder), "encoder": matmul_rate(encoder)},
        "tokens_per_row": fill(decoder, work),
        "repetitions": found,
        "users": len(work.units),
        "epochs": EPOCHS,
        "rank": RANK,
        "targets": list(TARGETS["decoder"]),
        "dtype": decoder.hardware.dtype,
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
        "load_average": os.getloadavg()[0],
        "environment": current_environment().model_dump(mode="json"),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if not quick:
        result["reference"] = reference_way(decoder, work)
        result["growth"] = [growth(decoder, work, users) for users in GROWTH]
    return result


def fill(base: FrozenBase, work: Workload) -> dict[str, float]:
    """Returns tokens a training row costs at equal work, run end to end behind one head, and padded row by row."""
    tokens, head = _decoder_tokens(base, work), base.family.reader.read(work.prompt, work.problem.texts).head
    lengths = np.array([len(own) for own in tokens[: len(work.problem.texts)]])
    batches = np.concatenate([
        lengths[unit.train.text[: len(unit.train) // BATCH * BATCH]].reshape(-1, BATCH) for unit in work.units
    ])  # fmt: skip
    return {
        "real": float(batches.mean()),
        "run": float(batches.mean() - head * (BATCH - 1) / BATCH),
        "padded": float(batches.max(1).mean()),
        "fill_padded": float(batches.mean() / batches.max(1).mean()),
    }


def table(result: dict[str, Any]) -> str:
    """Returns the medians of a comparison in Markdown, a row a case."""
    lines = [
        "| case | `peft` loop, s a user | peftu, s a user | ratio [least, most] | of processor times | matmul share |",
        "|---|---|---|---|---|---|",
    ]
    for name, rows in result["repetitions"].items():
        loop, own = (statistics.median(row[side] for row in rows) for side in ("peft", "ours"))
        ratios = [row["ratio"] for row in rows]
        between = f"[{min(ratios):.3g}, {max(ratios):.3g}]"
        lines.append(
            f"| `{name}` | {loop:.3g} | {own:.3g} | {result['ratios'][name]:.3g} {between} | "
            f"{result['cpu_ratios'][name]:.3g} | {result['matmul_shares'][name]:.2f} |"
        )
    return "\n".join(lines)


def whole() -> dict[str, Any]:
    """Returns the last comparison of the history that was not quick."""
    lines = map(json.loads, HISTORY.read_text(encoding="utf-8").splitlines())
    found: dict[str, Any] = [line for line in lines if line.get("quick") is False][-1]
    return found


def main() -> None:
    """Runs the comparison and adds a line to the history."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--raw", type=Path, help="folder with one folder a data set; otherwise downloaded")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--growth", action="store_true", help="only: 10 to 10,000 users with random labels")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--table", action="store_true", help="print the table of the last whole run in the history")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(whole()))
        return
    result = grown(arguments.raw) if arguments.growth else compare(arguments.raw, arguments.quick)
    if arguments.json or arguments.growth:
        print(json.dumps(result))
    else:
        print(
            json.dumps(
                {key: result[key] for key in ("ratios", "cpu_ratios", "matmul_shares", "tokens_per_row")}, indent=1
            )
        )
    HISTORY.parent.mkdir(exist_ok=True)
    with HISTORY.open("a", encoding="utf-8") as file:
        file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
