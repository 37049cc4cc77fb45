"""docs/methods.md names every method, and its parameter counts are those of the modules."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from peftu.bank import Layout
from peftu.base.model import FrozenBase, wrap
from peftu.methods.method import methods, region_of
from peftu.testing import tiny_tokenizer

PAGE = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
COUNTS = dict(re.findall(r"^\| `([\w-]+)` \|.*\| ([\d,]+) \|$", PAGE, flags=re.MULTILINE))


@pytest.fixture(scope="module")
def smollm2() -> FrozenBase:
    """The default base without its weights."""
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    return wrap(model, tiny_tokenizer(), "smollm2-135m-instruct")


@pytest.mark.parametrize("name", methods.names())
def test_every_method_has_its_row(name: str, smollm2: FrozenBase) -> None:
    assert re.search(rf"^\| `{name}`", PAGE, flags=re.MULTILINE), f"docs/methods.md: no row for {name}"
    cls: Any = methods.get(name)
    if hasattr(cls, "tensors") and cls.card.scope == "user":
        region = smollm2.region(region_of(cls(), smollm2.default_region))
        assert COUNTS[name] == f"{Layout(cls(), smollm2.sites(region, 2)).parameters:,}"
