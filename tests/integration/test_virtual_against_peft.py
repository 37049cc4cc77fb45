"""Virtual tokens of ours score as the same ones loaded by peft from a folder, run by transformers' own forward pass."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from oracle import Oracle
from safetensors.torch import save_file
from test_against_peft import NOTES, WORDS, close, hub, real
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from peftu.bank import Bound, Layout
from peftu.base.model import FrozenBase, load_base
from peftu.base.prompt import Prompt
from peftu.config import RegionSpec
from peftu.data.problem import Text
from peftu.methods.method import ModuleMethod
from peftu.methods.prefix_tuning import PrefixTuning
from peftu.methods.prompt_tuning import PromptTuning
from peftu.testing import FAMILIES, tiny_base, tiny_prompt, tiny_texts

torch.set_num_threads(1)
# peft 0.21 asks transformers 5 for an attribute under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

TASKS = {"decoder": "CAUSAL_LM", "encoder": "FEATURE_EXTRACTION", "encoder_decoder": "SEQ_2_SEQ_LM"}
TOKENS = 3


class Pair:
    """One user's module on a base of ours, and the means to load the same in peft."""

    def __init__(self, base: FrozenBase, method: ModuleMethod, prompt: Prompt, texts: list[Text], size: float) -> None:
        self.base, self.prompt, self.texts = base, prompt, texts
        self.region = base.region(RegionSpec())
        self.layout = Layout(method, base.sites(self.region, len(prompt.words)))
        self.row = size * torch.randn(1, self.layout.width, generator=torch.Generator().manual_seed(3))
        self.row[:, self.layout.switches] = 1
        self.own = {site: {k: v[0] for k, v in own.items()} for site, own in self.layout.views(self.row).items()}

    @torch.no_grad()
    def scores(self) -> Tensor:
        """Returns [texts, labels] our scores, all texts in one batch, beside a user who has no module."""
        context = self.base.prefill(self.prompt, self.texts, self.region)
        rows = torch.cat([self.row, torch.zeros_like(self.row)])
        binding = Bound(self.layout, self.layout.views(rows), 2)
        texts = torch.arange(len(self.texts))
        ours, empty = self.base.readout(context, texts.repeat(2), binding).view(2, len(texts), -1)
        assert torch.allclose(empty, self.base.readout(context, texts), atol=1e-5)
        return ours

    def prompt_embeddings(self) -> Tensor:
        """Returns the virtual tokens as peft keeps them: [tokens, d], or [tokens, layers × 2 × width]."""
        if "tokens" in self.own:
            return self.own["tokens"]["states"].contiguous()
        layers = [self.own[f"kv.{layer}"]["prefix"] for layer in range(self.base.family.layers)]
        if self.base.family.kind == "encoder_decoder":
            # peft hands a T5 layer i the pairs 2i and 2i + 1 of all pairs written twice, and T5 reads the first.
            order = [2 * layer % len(layers) for layer in range(len(layers))]
            layers = [layers[order.index(pair)] for pair in range(len(layers))]
        return torch.stack(layers).permute(2, 0, 1, 3).reshape(TOKENS, -1).contiguous()

    def loaded(self, model: Any, folder: Path, config: Any) -> Any:
        """Returns the hub model in peft, loaded from a folder with this module."""
        config.inference_mode = True
        config.save_pretrained(folder)
        save_file({"prompt_embeddings": self.prompt_embeddings()}, folder / "adapter_model.safetensors")
        return peft.PeftModel.from_pretrained(model, folder).eval()

    @torch.no_grad()
    def oracle(self, model: Any, tokenizer: Any, labels: Any, in_front: int) -> Tensor:
        """Returns [texts, labels] the loaded hub model's scores."""
        head = self.own.get("head")
        judge = TextOracle(model, tokenizer, labels, (head["weight"], head["bias"]) if head else None)
        judge.in_front = in_front
        return torch.stack([judge.scores(self.prompt, text) for text in self.texts])


class TextOracle(Oracle):
    """An oracle whose sentence vectors are means over the text's own tokens."""

    in_front = 0

    def vector(self, model: Any, text: str) -> Tensor:
        states = model(input_ids=torch.tensor([self.ids(text, special=True)])).last_hidden_state[0]
        own = states if model is self.labels else states[self.in_front :]
        return torch.nn.functional.normalize(own.mean(0), dim=0)


def config_of(base: FrozenBase, method: ModuleMethod) -> Any:
    kind = {PromptTuning: peft.PromptTuningConfig, PrefixTuning: peft.PrefixTuningConfig}[type(method)]
    more: dict[str, Any] = {}
    if base.family.kind == "encoder_decoder" and kind is not peft.PrefixTuningConfig:
        more = {
            "num_transformer_submodules": 1
        }  # peft's default makes room for a decoder's prompt and leaves it unread
    return kind(task_type=TASKS[base.family.kind], num_virtual_tokens=TOKENS, **more)


@pytest.mark.parametrize("method", [PromptTuning(tokens=TOKENS), PrefixTuning(tokens=TOKENS)], ids=["prompt", "prefix"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_whole_region_is_peft(family: str, method: ModuleMethod, tmp_path: Path) -> None:
    pair = Pair(tiny_base(family), method, tiny_prompt(WORDS), tiny_texts(5), size=1.0)
    model, tokenizer = hub(family)
    loaded = pair.loaded(model, tmp_path, config_of(pair.base, method))
    in_front = TOKENS if isinstance(method, PromptTuning) else 0
    expected = pair.oracle(loaded, tokenizer, hub(family)[0], in_front)
    assert not torch.allclose(expected, TextOracle(*hub(family)).scores(pair.prompt, pair.texts[0]), atol=1e-2)
    assert close(pair.scores(), expected)


@pytest.mark.weights
@pytest.mark.parametrize("method", [PromptTuning(tokens=TOKENS), PrefixTuning(tokens=TOKENS)], ids=["prompt", "prefix"])
def test_smollm2_is_peft_too(method: ModuleMethod, tmp_path: Path) -> None:
    folder = real("smollm2-135m-instruct")
    prompt = Prompt("Is this post hateful? Answer in one of three ways.", ("agree strongly", "agree", "no"))
    base = load_base("smollm2-135m-instruct", dtype=torch.float32)
    pair = Pair(base, method, prompt, NOTES, size=0.2)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    loaded = pair.loaded(model, tmp_path, config_of(base, method))
    expected = pair.oracle(loaded, AutoTokenizer.from_pretrained(folder), None, 0)
    assert close(pair.scores(), expected)
