"""A user's module as peft loads it gives the probabilities that the service answers with."""

import asyncio
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from oracle import Oracle
from safetensors.torch import load_file
from test_against_peft import real
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from peftu.data.problem import Text
from peftu.fitted.folder import load
from peftu.lab.lab import Lab
from peftu.peft_io import HEAD
from peftu.serving.service import Service
from peftu.testing.bases import save_tiny
from peftu.testing.fitted import fit_tiny

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

TEXTS = [Text("a note of blue"), Text("soup, and trains", "What is for dinner?")]
REAL = [pytest.mark.slow, pytest.mark.weights]


@pytest.mark.parametrize(
    ("base", "kind"),
    [
        ("llama", AutoModelForCausalLM),
        ("bert", AutoModel),
        pytest.param("smollm2-135m-instruct", AutoModelForCausalLM, marks=REAL),
        pytest.param("all-minilm-l6-v2", AutoModel, marks=REAL),
    ],
)
def test_a_user_exported_to_peft_is_answered_as_by_the_service(base: str, kind: Any, tmp_path: Path) -> None:
    if base in ("llama", "bert"):
        save_tiny(base, folder := tmp_path / base)
        base = str(folder)
    else:
        folder = real(base)
    kept = fit_tiny("lora[rank=4]", base, users=2)[0].save(tmp_path / "kept")
    fitted = load(kept, Lab())
    service = Service(kept)
    service.start()
    try:
        question = service.question(fitted.label)
        answered = asyncio.run(service.answers(fitted.users, TEXTS, question))
    finally:
        service.stop()
    ours = torch.tensor([row["p_likes"] for row in answered.rows]).view(len(fitted.users), len(TEXTS))
    assert (ours - ours.mean(0)).abs().max() > 1e-3  # users differ
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def model() -> Any:
        return kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")

    for user, own in zip(fitted.users, ours, strict=True):
        module = fitted.export(user, tmp_path / user)
        head = load_file(module / HEAD) if (module / HEAD).exists() else None  # an encoder's, which is no part of peft
        wrapped = peft.PeftModel.from_pretrained(model(), str(module)).eval()
        labels = model() if kind is AutoModel else None
        oracle = Oracle(wrapped, tokenizer, labels, (head["weight"], head["bias"]) if head else None)
        with torch.no_grad():
            theirs = torch.stack([oracle.scores(fitted.prompt, text) for text in TEXTS]).exp()
        assert (theirs[:, fitted.task.labels.index("likes")] - own).abs().max() < 1e-3
