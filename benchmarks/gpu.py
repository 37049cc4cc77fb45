"""All that a GPU can tell, in under 8 minutes: whether it computes what the processor does, and how fast.

    python benchmarks/gpu.py            # on a machine with a GPU: writes results/gpu.json and docs/performance.md
    python benchmarks/gpu.py --toy      # the same code at toy size, anywhere; writes nothing

Correctness: tiny random bases of each family, every module method, trained and read on both in float32. Speed: bases of
the shapes of SmolLM2-135M, Llama-3.2-1B, Qwen3-8B and Flan-T5-base with random weights (speed does not look at values),
made-up texts of one token a character. The loop over `peft` has the same rows, rank, targets, batch and dtype, LoRA in
all layers whatever ours acts in, its model in place once, and trains one user after another; both sides are timed at
steady state, and the median of repetitions is kept. A share of peak is of the rate measured here for one large product
in bfloat16.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from peftu.bank import Layout
from peftu.base.hardware import default_dtype, described
from peftu.base.model import FrozenBase, wrap
from peftu.base.prompt import Prompt
from peftu.base.quantised import ready_quantised
from peftu.config import HardwareSpec, RegionSpec, TrainSpec
from peftu.data.problem import Text
from peftu.environment import current_environment
from peftu.methods.lora import Lora
from peftu.methods.method import methods
from peftu.plan import is_module
from peftu.predict import score
from peftu.testing.bases import FAMILIES, tiny_model, tiny_tokenizer
from peftu.train import cohort_size, train
from peftu.train_rows import Examples, Unit

RESULT = Path(__file__).parent / "results" / "gpu.json"
PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
MARKS = ("<!-- gpu:start -->", "<!-- gpu:end -->")
PROMPT = Prompt("Is this post hateful? Answer yes or no.", ("yes", "no"))
BATCH, RANK, EPOCHS, TRAIN_ROWS = 8, 8, 8, 160
CLOSE = 1e-3  # of a log-probability in float32, after three steps
WHOLE = RegionSpec(span="all")


@dataclass(frozen=True)
class Shape:
    """A base to be made with random weights.

    Attributes:
        config: of its hub model.
        targets: of LoRA, ours and peft's.
        users: trained at once.
        texts: how many are made up, and their fewest and most characters.
    """

    config: dict[str, Any]
    targets: tuple[str, ...]
    peft_targets: list[str]
    users: int
    texts: tuple[int, int, int] = (256, 40, 200)

    def toy(self) -> "Shape":
        """Returns the same in small."""
        small = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
        small |= {"num_key_value_heads": 2, "head_dim": 16, "vocab_size": 256}
        if self.config["model_type"] == "t5":
            small = {"d_model": 64, "d_ff": 96, "d_kv": 16, "num_layers": 3, "num_heads": 4, "vocab_size": 256}
        return Shape(self.config | small, self.targets, self.peft_targets, 4, (16, 5, 20))

    def model(self, device: torch.device, dtype: torch.dtype) -> Any:
        """Returns the hub model on a device, its weights drawn there."""
        settings = dict(self.config)
        config = AutoConfig.for_model(settings.pop("model_type"), **settings, eos_token_id=1, bos_token_id=2)
        auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        torch.manual_seed(0)
        with torch.device(device):
            return auto.from_config(config, dtype=dtype).eval()

    def base(self, hardware: HardwareSpec) -> FrozenBase:
        """Returns the frozen base."""
        model = self.model(torch.device(hardware.device), getattr(torch, hardware.dtype))
        if hardware.quantize != "none":
            quantise(model, hardware)
        closing = self.config["model_type"] == "t5"
        return wrap(model, tiny_tokenizer(closing), self.config["model_type"], hardware=hardware)


def decoder(kind: str, vocabulary: int, width: int, inner: int, layers: int, heads: int, shared: int, head: int) -> Any:
    """Returns a decoder's shape."""
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    config = dict(zip(names, (vocabulary, width, inner, layers, heads), strict=True))
    config |= {"model_type": kind, "num_key_value_heads": shared, "head_dim": head, "tie_word_embeddings": True}
    return Shape(config, ("q", "v"), ["q_proj", "v_proj"], 256 if width < 4096 else 64)


FLAN_T5 = {"model_type": "t5", "vocab_size": 32128, "d_model": 768, "d_ff": 2048, "d_kv": 64, "num_layers": 12}
FLAN_T5 |= {"num_heads": 12, "feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0}
SHAPES = {
    "SmolLM2-135M": decoder("llama", 49152, 576, 1536, 30, 9, 3, 64),
    "Llama-3.2-1B": decoder("llama", 128256, 2048, 8192, 16, 32, 8, 64),
    "Flan-T5-base": Shape(FLAN_T5, ("q", "v"), ["q", "v"], 256),
    "Qwen3-8B": decoder("qwen3", 151936, 4096, 12288, 36, 32, 8, 128),
}
LARGEST = "Qwen3-8B"


def quantise(model: Any, hardware: HardwareSpec) -> None:
    """Holds a model's layers in four bits, one linear map after another."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    for path, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear) and "layers." in path:
            new = Linear4bit(
                module.in_features, module.out_features, module.bias is not None,
                compute_dtype=getattr(torch, hardware.dtype), compress_statistics=True, quant_type="nf4", device="meta",
            )  # fmt: skip
            weight = module.weight.data.cpu()
            new.weight = Params4bit(weight, requires_grad=False, quant_type="nf4", compress_statistics=True)
            new.bias = module.bias
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, new.to(hardware.device))
    ready_quantised(model, hardware, "shape")


# --- work that is made up ------------------------------------------------------------------------------------------


def made_up_texts(number: int, least: int = 40, most: int = 200) -> list[Text]:
    """Returns texts of so many characters, a token each."""
    rng = random.Random(0)
    return [Text("".join(rng.choices("abcdefghij ", k=rng.randint(least, most)))) for _ in range(number)]


def made_up_users(users: int, rows: int, texts: int, val: int = 0) -> list[Unit]:
    """Returns units with random rows and labels."""
    rng = np.random.default_rng(0)

    def examples(count: int) -> Examples:
        target = np.eye(2, dtype=np.float32)[rng.integers(0, 2, count)]
        return Examples(rng.integers(0, texts, count), target, np.ones(count, dtype=np.float32))

    return [Unit(str(number), examples(rows), examples(val)) for number in range(users)]


def synchronise(device: torch.device) -> None:
    """Waits until a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(device: torch.device, work: Callable[[], object]) -> float:
    """Returns how long a call takes, its work on the device included."""
    synchronise(device)
    start = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - start


def median_of(device: torch.device, work: Callable[[], object], repeats: int) -> float:
    """Returns the median of some calls, after one that warms up."""
    work()
    return statistics.median(seconds(device, work) for _ in range(repeats))


@contextmanager
def peak_memory(device: torch.device) -> Iterator[dict[str, int]]:
    """Yields a dictionary that holds the device's peak bytes once the block has ended; None on a processor."""
    peak: dict[str, Any] = {"bytes": None}
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    yield peak
    if device.type == "cuda":
        peak["bytes"] = torch.cuda.max_memory_allocated(device)


# --- does it compute the same? -------------------------------------------------------------------------------------


def correctness(device: torch.device, families: Sequence[str], names: Sequence[str]) -> list[dict[str, Any]]:
    """Returns, for each family, region and method, how far scores are from a processor's after three steps."""
    texts = made_up_texts(12, 3, 30)
    units = made_up_users(3, 3 * 2, len(texts), 2)
    rows = []
    for family, region, name in product(families, (WHOLE, None), names):
        here, there = (trained_scores(family, name, region, units, texts, place) for place in (CPU, device))
        if here is not None and there is not None:
            gap, where = float(np.abs(here - there).max()), "all" if region else "default"
            rows.append({"family": family, "region": where, "method": name, "gap": gap})
    return rows


CPU = torch.device("cpu")


def trained_scores(
    family: str, name: str, region: RegionSpec | None, units: list[Unit], texts: list[Text], device: torch.device
) -> np.ndarray | None:
    """Returns scores of all units' modules on all texts, trained and read on a device; None where a method cannot."""
    from peftu.errors import PeftuError

    model, tokenizer = tiny_model(family)
    hardware = HardwareSpec(device=str(device), dtype="float32")
    base = wrap(model.to(device), tokenizer, family, hardware=hardware)
    try:
        where = base.region(region)
        layout = Layout(methods.get(name)(), base.sites(where, 2))
    except PeftuError:
        return None
    context = base.prefill(PROMPT, texts, where)
    trained = train(base, context, layout, units, TrainSpec(epochs=1, batch=2, lr=1e-3), seed=0)
    pairs = np.repeat(np.arange(len(units)), len(texts)), np.tile(np.arange(len(texts)), len(units))
    return score(base, context, pairs[1], layout, trained.rows, pairs[0])


# --- how fast is it? -----------------------------------------------------------------------------------------------


def matmul_rate(device: torch.device, dtype: torch.dtype, width: int) -> float:
    """Returns the multiply-adds ×2 a second of the best of some products [width, width]."""
    a = torch.randn(width, width, device=device).to(dtype)
    best = min(seconds(device, lambda: [a @ a for _ in range(10)]) for _ in range(5))
    return 10 * 2 * width**3 / best


def training(base: FrozenBase, shape: Shape, region: RegionSpec | None, rate: float, repeats: int) -> dict[str, Any]:
    """Returns what training costs in a region: seconds a row, users an hour, share of peak, memory."""
    where, texts = base.region(region), made_up_texts(*shape.texts)
    context = base.prefill(PROMPT, texts, where)
    layout = Layout(Lora(rank=RANK, targets=shape.targets), base.sites(where, 2))
    spec = TrainSpec(epochs=1, batch=BATCH, patience=1, lr=1e-3)
    steps = 2 if region is not None else 8
    units = made_up_users(shape.users, steps * BATCH, len(texts))
    with peak_memory(base.device) as peak:
        spent = median_of(base.device, lambda: train(base, context, layout, units, spec, seed=0), repeats)
    few = made_up_users(min(4, shape.users), BATCH, len(texts))
    with FlopCounterMode(display=False) as counter:
        train(base, context, layout, few, spec, seed=0)
    a_row = spent / (len(units) * steps * BATCH)
    reading = seconds(base.device, lambda: base.prefill(PROMPT, texts, where)) / len(texts)
    a_user = TRAIN_ROWS * (EPOCHS * a_row + reading)
    return {
        "row_seconds": a_row,
        "users_per_hour": 3600 / a_user,
        "share_of_peak": counter.get_total_flops() / (len(few) * BATCH) / a_row / rate,
        "cohort": min(len(units), cohort_size(base, context, layout, spec)),
        "peak_bytes": peak["bytes"],
    }


def peft_row(shape: Shape, device: torch.device, dtype: torch.dtype, repeats: int) -> float:
    """Returns the seconds a row of a loop over `peft`: LoRA in all layers, rows padded to the longest of the batch."""
    model = shape.model(device, dtype)
    kind = "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"
    config = peft.LoraConfig(r=RANK, target_modules=shape.peft_targets, task_type=kind)
    module: Any = peft.get_peft_model(model, config).train()
    trainable = [weight for weight in module.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(trainable, lr=1e-3, fused=device.type == "cuda")
    tokenizer = tiny_tokenizer(kind == "SEQ_2_SEQ_LM")
    tokens = [tokenizer(f"{PROMPT.instruction} {text.text}")["input_ids"] for text in made_up_texts(*shape.texts)]
    rng = np.random.default_rng(0)

    def step() -> None:
        rows = [tokens[row] for row in rng.integers(0, len(tokens), BATCH)]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device)
        if kind == "SEQ_2_SEQ_LM":
            logits = module(input_ids=ids, attention_mask=mask, decoder_input_ids=ids[:, :1]).logits[:, -1]
        else:
            last = mask.sum(1) - 1
            hidden = module.base_model.model.model(input_ids=ids, attention_mask=mask).last_hidden_state
            logits = module.base_model.model.lm_head(hidden[torch.arange(len(rows), device=device), last])
        torch.nn.functional.cross_entropy(logits.float(), ids[:, 1]).backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return median_of(device, lambda: [step() for _ in range(4)], repeats) / (4 * BATCH)


def answering(base: FrozenBase, shape: Shape, users: tuple[int, ...], texts: int, repeats: int) -> dict[str, float]:
    """Returns the seconds of one text for many users, and of many texts for one; prefill in."""
    region = base.region(None)
    layout = Layout(Lora(rank=RANK, targets=shape.targets), base.sites(region, 2))
    asked, out = made_up_texts(texts), {}

    def answer(some: list[Text], rows: torch.Tensor) -> None:
        context = base.prefill(PROMPT, some, region)
        pairs = np.arange(max(len(some), len(rows)))
        score(base, context, pairs % len(some), layout, rows, pairs % len(rows))

    for count in users:
        rows = (torch.randn(count, layout.width) * 0.02).to(base.device)
        out[f"one text, {count} users"] = median_of(base.device, lambda r=rows: answer(asked[:1], r), repeats)
    rows = torch.randn(1, layout.width, device=base.device) * 0.02
    out[f"{texts} texts, one user"] = median_of(base.device, lambda: answer(asked, rows), repeats)
    return out


def measured(name: str, shape: Shape, hardware: HardwareSpec, rate: float, toy: bool) -> dict[str, Any]:
    """Returns all that is measured of one shape."""
    device, dtype, repeats = torch.device(hardware.device), getattr(torch, hardware.dtype), 1 if toy else 3
    base = shape.base(hardware)
    regions = {"whole": WHOLE, "default": None}
    result: dict[str, Any] = {
        region: training(base, shape, spec, rate, repeats) for region, spec in regions.items()
    }  # fmt: skip
    result["answers"] = answering(base, shape, (10, 20) if toy else (1000, 10_000), 10 if toy else 1000, repeats)
    del base
    release(device)
    loop = peft_row(shape, device, dtype, repeats)
    for region in regions:
        result[region] |= {"peft_row_seconds": loop, "ratio": loop / result[region]["row_seconds"]}
    release(device)
    if name == LARGEST:
        quantised = shape.base(hardware.model_copy(update={"quantize": "nf4"}))
        release(device)
        result["nf4 whole"] = training(quantised, shape, WHOLE, rate, repeats)
        result["nf4 default"] = training(quantised, shape, None, rate, repeats)
    return result


def release(device: torch.device) -> None:
    """Gives memory back that nothing holds any more."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def run(toy: bool) -> dict[str, Any]:
    """Returns everything, on the GPU where there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    hardware = HardwareSpec(device=str(device), dtype=default_dtype(device))
    rate = matmul_rate(device, getattr(torch, hardware.dtype), 256 if toy else 8192)
    known = [name for name in methods.names() if is_module(methods.get(name))]
    gaps = correctness(device, FAMILIES[:1] if toy else FAMILIES, ("lora", "prefix-tuning") if toy else known)
    shapes = {}
    for name, shape in SHAPES.items():
        start = time.perf_counter()
        shapes[name] = measured(name, shape.toy() if toy else shape, hardware, rate, toy)
        shapes[name]["seconds"] = time.perf_counter() - start
        release(device)
    return {
        "benchmark": "gpu",
        "toy": toy,
        "card": described(device),
        "hardware": hardware.model_dump(),
        "matmul_rate": rate,
        "correctness": gaps,
        "largest_gap": max(row["gap"] for row in gaps),
        "shapes": shapes,
        "environment": current_environment().model_dump(mode="json"),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def table(result: dict[str, Any]) -> str:
    """Returns the result as a table in Markdown."""
    lines = [
        f"{result['card']}, {result['hardware']['dtype']}, {result['matmul_rate'] / 1e12:,.0f} TFLOPS measured for one "
        f"large product; {result['date'][:10]}, `python benchmarks/gpu.py`. Largest difference from a processor, over "
        f"{len(result['correctness'])} families, regions and methods: {result['largest_gap']:.1e}.",
        "",
        "| shape | region | users an hour | times a loop over `peft` | of peak | memory, GB |",
        "|---|---|---|---|---|---|",
    ]
    for name, shape in result["shapes"].items():
        for region in ("whole", "default", "nf4 whole", "nf4 default"):
            if region in shape:
                row = shape[region]
                ratio = f"{row['ratio']:,.0f}" if "ratio" in row else ""
                memory = f"{row['peak_bytes'] / 1e9:,.1f}" if row["peak_bytes"] else ""
                lines.append(
                    f"| {name} | {region} | {row['users_per_hour']:,.0f} | {ratio} | "
                    f"{row['share_of_peak']:.0%} | {memory} |"
                )
    lines += ["", "| shape | answers | seconds |", "|---|---|---|"]
    for name, shape in result["shapes"].items():
        lines += [f"| {name} | {what} | {spent:.2f} |" for what, spent in shape["answers"].items()]
    return "\n".join(lines)


def main() -> None:
    """Measures, writes the result beside the others, and puts the table into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--toy", action="store_true", help="at toy size; nothing is written")
    toy = parser.parse_args().toy
    if not toy and not torch.cuda.is_available():
        parser.error("no GPU here — --toy runs the same code at toy size")
    result = run(toy)
    print(table(result))
    if not toy:
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARKS[0])
        after = rest.partition(MARKS[1])[2]
        PAGE.write_text(f"{before}{MARKS[0]}\n{table(result)}\n{MARKS[1]}{after}", encoding="utf-8")
    far = [row for row in result["correctness"] if not row["gap"] <= CLOSE]
    if far:
        raise SystemExit(f"{len(far)} of {len(result['correctness'])} differ by more than {CLOSE}: {far}")


if __name__ == "__main__":
    main()
