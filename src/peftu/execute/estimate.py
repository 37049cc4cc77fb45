"""How long a run will take and how much it will keep, said before it starts."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from peftu.base.model import FrozenBase
from peftu.cells.fits import Fits
from peftu.codes import SharedLayout
from peftu.data.problem import Problem
from peftu.fitted.training import BYTES_PER_NUMBER, layout_of
from peftu.plan import Job, is_module, is_prompting

CHARACTERS_PER_TOKEN = 4.0
FRAME_TOKENS = 12  # end of turn and assistant marker round a text
EFFICIENCY = 0.5  # share of the matmul rate that whole steps reach (benchmarks/training.py)
EPOCHS_RUN = 0.7  # share of the epochs that users run before they stop early, as seen on tweeteval


@dataclass(frozen=True)
class Estimate:
    """Seconds of work and bytes of stored modules."""

    seconds: float
    module_bytes: int


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


def estimate(jobs: Sequence[Job], fits: Fits, problems: Mapping[int, Problem]) -> Estimate:
    """Returns an estimate from token counts, depths and the measured matmul rate."""
    seconds, module_bytes = 0.0, 0
    prefilled: set[object] = set()
    shared: set[object] = set()
    text_tokens = sum(len(t.text) + len(t.context or "") for t in fits.lab.texts) / CHARACTERS_PER_TOKEN
    text_tokens += FRAME_TOKENS * len(fits.lab.texts)
    for job in jobs:
        if job.base is None:
            continue
        base = fits.lab.base(job.base)
        rate = matmul_rate(base) * EFFICIENCY
        layer = layer_flops(base)
        if is_prompting(job.method):
            job.region_on(base)  # an encoder reads no prompt
            shown = 1 + job.method.most_shown
            read = sum(int((problem.part > 0).sum()) for problem in problems.values())
            seconds += read * shown * text_tokens / max(1, len(fits.lab.texts)) * layer * base.family.layers / rate
            continue
        region = job.region_on(base)
        if (job.base, region) not in prefilled:
            prefilled.add((job.base, region))
            seconds += text_tokens * layer * base.family.layers / rate
        words = _answer_tokens(fits)
        logits = words * head_flops(base) if words else 0.0  # free answers read the output matrix whole
        read = sum(int((problem.part > 0).sum()) for problem in problems.values())
        seconds += read * (words * layer * base.family.layers + logits) / rate
        if not is_module(job.method):
            continue
        text = text_tokens / max(1, len(fits.lab.texts))
        span = {"all": text, "answer": FRAME_TOKENS / 2, "last": 1.0}[region.span]
        span += words + layout_of(job, fits.lab, fits.prompt, fits.users).added_tokens
        work = span * region.depth * layer + logits
        for seed, problem in problems.items():
            for trained in (job, job.start) if job.start else (job,):
                everyone = trained.card.scope == "global"
                if everyone and (repr(trained.resolved()), seed) in shared:
                    continue
                shared.add((repr(trained.resolved()), seed))
                once = everyone and not words  # distinct texts, not single answers
                rows = len(set(problem.text[problem.rows("train")])) if once else len(problem.rows("train"))
                steps = rows * trained.train.epochs * EPOCHS_RUN
                seconds += 2 * steps * work / rate
            module_bytes += BYTES_PER_NUMBER * stored_numbers(fits, job, len(problem.users))
    return Estimate(seconds, module_bytes)


def _answer_tokens(fits: Fits) -> float:
    """Returns the tokens of a free answer, on average; 0 where answers are labels."""
    if not fits.prompt.free:
        return 0.0
    most = fits.prompt.answer_tokens
    lengths = [min(most, len(words or "") / CHARACTERS_PER_TOKEN) for _, words in fits.lab.items]
    return sum(lengths) / len(lengths)


def head_flops(base: FrozenBase) -> float:
    """Returns the forward FLOPs of one token's logits over the vocabulary."""
    return 2.0 * base.writer.vocabulary * base.family.width


def stored_numbers(fits: Fits, job: Job, users: int) -> int:
    """Returns how many numbers a job's modules have, for so many users."""
    layout = layout_of(job, fits.lab, fits.prompt, fits.users)
    if isinstance(layout, SharedLayout):
        return layout.width + users * layout.code_width
    return layout.width * (1 if job.card.scope == "global" else users)


def layer_flops(base: FrozenBase) -> float:
    """Returns the forward FLOPs a token in one layer: twice its weights."""
    weights = sum(p.numel() for name, p in base.family.model.named_parameters() if ".layers." in name or ".h." in name)
    weights = weights or sum(p.numel() for p in base.family.model.parameters())
    return 2.0 * weights / base.family.layers
