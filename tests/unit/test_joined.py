"""Texts that are read at different times are scored together as if they had been read at once."""

from typing import Any

import numpy as np
import pytest
import torch

from peftu.bank import Layout
from peftu.base.families.family import Family
from peftu.base.prompt import Prompt
from peftu.config import RegionSpec
from peftu.lab.lab import Lab
from peftu.methods.lora import Lora
from peftu.predict import score
from peftu.testing import tiny_base, tiny_texts
from peftu.testing.bases import FAMILIES
from peftu.testing.fitted import CLOSE

torch.set_num_threads(1)

PROMPT = Prompt("Is it good?", ("yes", "no"), 24)
TEXTS = tiny_texts(9)


def read(lab: Lab, name: str, spec: RegionSpec, texts: list[Any]) -> Any:
    """Returns the scores of texts with two users' modules, as read by a lab."""
    base = lab.base(name)
    region = base.region(spec)
    layout = Layout(Lora(rank=2, targets=("q", "v")), base.sites(region, 2))
    rows = 0.3 * torch.randn(2, layout.width, generator=torch.Generator().manual_seed(0))
    context, places = lab.read(name, PROMPT, region, [(text, None) for text in texts])
    return score(base, context, places, layout, rows, np.arange(len(texts)) % 2)


@pytest.mark.parametrize("depth", [1, None])
@pytest.mark.parametrize("span", ["all", "answer", "last"])
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_do_not_depend_on_when_a_text_was_read(
    family: str, span: Any, depth: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_base(family)
    if span not in base.family.spans:
        return
    spec, keeping, plain = RegionSpec(depth=depth, span=span), Lab(kept_bytes=1 << 30), Lab()
    counts: list[int] = []
    prefill = type(base.family).prefill

    def counted(self: Family, prompt: Prompt, texts: Any, *given: Any) -> Any:
        counts.append(len(texts))
        return prefill(self, prompt, texts, *given)

    for lab in (keeping, plain):
        lab.add(family, base)
    expected = {len(part): read(plain, family, spec, part) for part in (TEXTS[:3], TEXTS[2:7], TEXTS)}
    monkeypatch.setattr(type(base.family), "prefill", counted)
    for part in (TEXTS[:3], TEXTS[2:7], TEXTS, TEXTS[:3]):
        assert np.abs(read(keeping, family, spec, part) - expected[len(part)]).max() < CLOSE
    assert sum(counts) == len(TEXTS) or family in ("llama", "gpt2")  # whose prompts may be cut in another place
    few = Lab(kept_bytes=1)  # nothing fits: each batch is read for itself
    few.add(family, base)
    for part in (TEXTS[:3], TEXTS[2:7]):
        assert np.abs(read(few, family, spec, part) - expected[len(part)]).max() < CLOSE
