"""Prediction speed: one text for 1,000 users, and 1,000 texts for one user, against a `peft` loop that swaps adapters.

    python benchmarks/prediction.py [--quick] [--json]       # modules in the base's default region

Modules are random (speed does not look at values); texts are made up. The loop keeps every user's LoRA in memory,
copies it into the one adapter of a model loaded once, and runs the prompt with logits of the last position only. Both
sides are timed one after the other in every repetition; ratios are medians.
"""

import argparse
import json
import random
import statistics
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from transformers import AutoModelForCausalLM

from peftu.bank import Layout
from peftu.base.model import FrozenBase, load_base
from peftu.base.prompt import Prompt
from peftu.base.weights import resolve_weights
from peftu.data.problem import Text
from peftu.environment import current_environment
from peftu.methods.lora import Lora
from peftu.predict import score

HISTORY = Path(__file__).parent / "results" / "prediction.jsonl"
PROMPT = Prompt("Is this post hateful? Answer yes or no.", ("yes", "no"))
TARGETS = ("q", "v")


def made_up_texts(number: int) -> list[Text]:
    """Returns texts of 5 to 40 common words."""
    words = ("the", "a", "post", "about", "people", "and", "films", "that", "they", "like", "not", "all", "we", "can")
    rng = random.Random(0)
    return [Text(" ".join(rng.choices(words, k=rng.randint(5, 40)))) for _ in range(number)]


class Ours:
    """Users' modules in one matrix."""

    def __init__(self, base: FrozenBase, users: int) -> None:
        self.base, self.region = base, base.region(None)
        self.layout = Layout(Lora(targets=TARGETS), base.sites(self.region, 2))
        self.rows = torch.randn(users, self.layout.width) * 0.02

    def one_text(self, text: Text) -> None:
        """Answers for every user; the prefill counts."""
        context = self.base.prefill(PROMPT, [text], self.region)
        users = np.arange(len(self.rows))
        score(self.base, context, np.zeros_like(users), self.layout, self.rows, users)

    def one_user(self, texts: list[Text]) -> None:
        """Answers every text for the first user."""
        context = self.base.prefill(PROMPT, texts, self.region)
        score(self.base, context, np.arange(len(texts)), self.layout, self.rows, np.zeros(len(texts), dtype=np.int64))


class Swapping:
    """One `peft` model whose adapter is overwritten for each user."""

    def __init__(self, base: FrozenBase, users: int) -> None:
        folder, layers = resolve_weights(base.name), base.family.layers
        self.model: Any = peft.get_peft_model(
            AutoModelForCausalLM.from_pretrained(folder, dtype=base.dtype),
            peft.LoraConfig(
                r=8,
                lora_alpha=16,
                target_modules=["q_proj", "v_proj"],
                layers_to_transform=list(range(layers - 6, layers)),
            ),
        ).eval()
        self.family: Any = base.family
        state = peft.get_peft_model_state_dict(self.model)
        self.users = [{k: torch.randn_like(v) * 0.02 for k, v in state.items()} for _ in range(users)]

    def prompts(self, texts: list[Text]) -> list[list[int]]:
        """Returns the same tokens that ours reads."""
        lists: list[list[int]] = self.family.reader.read(PROMPT, texts).lists
        return lists

    @torch.no_grad()
    def one_text(self, text: Text) -> None:
        """Answers for every user, one after another."""
        ids = torch.tensor(self.prompts([text]))
        for state in self.users:
            peft.set_peft_model_state_dict(self.model, state)
            self.model(input_ids=ids, logits_to_keep=1)

    @torch.no_grad()
    def one_user(self, texts: list[Text]) -> None:
        """Answers every text for one user, in batches of 32 of like length."""
        peft.set_peft_model_state_dict(self.model, self.users[0])
        prompts = sorted(self.prompts(texts), key=len)
        for first in range(0, len(prompts), 32):
            batch = prompts[first : first + 32]
            longest = max(map(len, batch))
            ids = torch.tensor([[0] * (longest - len(p)) + p for p in batch])
            mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in batch])
            self.model(input_ids=ids, attention_mask=mask, logits_to_keep=1)


def seconds(work: Any, *arguments: Any) -> float:
    """Returns how long a call takes."""
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


def compare(quick: bool) -> dict[str, Any]:
    """Returns the ratios and what they were made from; ``quick`` loops over 30 users and 100 texts, and scales."""
    base = load_base("smollm2-135m-instruct")
    users, loop_users = 1000, 30 if quick else 1000
    texts = made_up_texts(100 if quick else 1000)
    mine, theirs = Ours(base, users), Swapping(base, loop_users)
    found: dict[str, list[dict[str, float]]] = {"one_text_1000_users": [], "1000_texts_one_user": []}
    for repetition in range(4):
        pairs = {
            "one_text_1000_users": (
                seconds(mine.one_text, texts[repetition]),
                seconds(theirs.one_text, texts[repetition]) * users / loop_users,
            ),
            "1000_texts_one_user": tuple(s * 1000 / len(texts) for s in (
                seconds(mine.one_user, texts), seconds(theirs.one_user, texts)
            )),
        }  # fmt: skip
        for name, (own, loop) in pairs.items():
            print(f"{name}: ours {own:.2f} s, peft {loop:.1f} s, ratio {loop / own:.1f}", file=sys.stderr)
            if repetition:  # the first warms caches up on both sides
                found[name].append({"ours": own, "peft": loop, "ratio": loop / own})
    return {
        "benchmark": "prediction",
        "quick": quick,
        "extrapolated": quick,
        "ratios": {name: statistics.median(r["ratio"] for r in rows) for name, rows in found.items()},
        "repetitions": found,
        "region": str(base.default_region),
        "threads": torch.get_num_threads(),
        "environment": current_environment().model_dump(mode="json"),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def main() -> None:
    """Runs the comparison and adds a line to the history."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result = compare(arguments.quick)
    print(json.dumps(result if arguments.json else result["ratios"]))
    HISTORY.parent.mkdir(exist_ok=True)
    with HISTORY.open("a", encoding="utf-8") as file:
        file.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
