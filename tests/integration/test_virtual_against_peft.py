"""Virtual tokens of ours score as the same ones loaded by peft from a folder, run by transformers' own forward pass.

Where peft has no such thing (an answer span, a region that is not the whole model), transformers alone is the oracle.
"""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from oracle import Oracle, body_of, constrained
from safetensors.torch import save_file
from test_against_peft import NOTES, WORDS, alike, close, hub, real, weighed
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from peftu.bank import Bound, Layout
from peftu.base.model import FrozenBase, load_base
from peftu.base.prompt import Prompt
from peftu.config import RegionSpec
from peftu.data.problem import Text
from peftu.methods.method import ModuleMethod
from peftu.methods.p_tuning import PTuning
from peftu.methods.prefix_tuning import PrefixTuning
from peftu.methods.prompt_tuning import PromptTuning
from peftu.testing import CPU, FAMILIES, tiny_base, tiny_prompt, tiny_texts

torch.set_num_threads(1)
# peft 0.21 asks transformers 5 for an attribute under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

TASKS = {"decoder": "CAUSAL_LM", "encoder": "FEATURE_EXTRACTION", "encoder_decoder": "SEQ_2_SEQ_LM"}
TOKENS = 3
each_method = pytest.mark.parametrize(
    "method",
    [PromptTuning(tokens=TOKENS), PTuning(tokens=TOKENS), PrefixTuning(tokens=TOKENS)],
    ids=lambda method: method.card.name,
)


class Pair:
    """One user's module on a base of ours, and the means to load the same in peft."""

    def __init__(
        self,
        base: FrozenBase,
        method: ModuleMethod,
        prompt: Prompt,
        texts: list[Text],
        size: float,
        region: RegionSpec | None = None,
    ) -> None:
        self.base, self.prompt, self.texts = base, prompt, texts
        self.region = base.region(region or RegionSpec())
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

    def gradient(self) -> Tensor:
        """Returns how our scores, weighed, move with `prompt_embeddings`."""
        context = self.base.prefill(self.prompt, self.texts, self.region)
        leaf = self.row.clone().requires_grad_()
        binding = Bound(self.layout, self.layout.views(leaf), 1)
        weighed(self.base.readout(context, torch.arange(len(self.texts)), binding)).backward()
        assert leaf.grad is not None
        found = self.layout.views(leaf.grad)
        return self.prompt_embeddings({site: {k: v[0] for k, v in own.items()} for site, own in found.items()})

    def prompt_embeddings(self, own: dict[str, dict[str, Tensor]]) -> Tensor:
        """Returns virtual tokens as peft keeps them: [tokens, d], or [tokens, layers × 2 × width]."""
        if "tokens" in own:
            return own["tokens"]["states"].contiguous()
        layers = [own[f"kv.{layer}"]["prefix"] for layer in range(self.base.family.layers)]
        if self.base.family.kind == "encoder_decoder":
            # peft hands a T5 layer i the pairs 2i and 2i + 1 of all pairs written twice, and T5 reads the first.
            order = [2 * layer % len(layers) for layer in range(len(layers))]
            layers = [layers[order.index(pair)] for pair in range(len(layers))]
        return torch.stack(layers).permute(2, 0, 1, 3).reshape(TOKENS, -1).contiguous()

    def loaded(self, model: Any, folder: Path, config: Any) -> Any:
        """Returns the hub model in peft, loaded from a folder with this module."""
        config.inference_mode = True
        config.save_pretrained(folder)
        save_file({"prompt_embeddings": self.prompt_embeddings(self.own)}, folder / "adapter_model.safetensors")
        return peft.PeftModel.from_pretrained(model, folder).eval()

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
    kind = {
        PromptTuning: peft.PromptTuningConfig,
        PTuning: peft.PromptEncoderConfig,
        PrefixTuning: peft.PrefixTuningConfig,
    }[type(method)]
    more: dict[str, Any] = {}
    if base.family.kind == "encoder_decoder" and kind is not peft.PrefixTuningConfig:
        more = {
            "num_transformer_submodules": 1
        }  # peft's default makes room for a decoder's prompt and leaves it unread
    return kind(task_type=TASKS[base.family.kind], num_virtual_tokens=TOKENS, **more)


@each_method
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_whole_region_is_peft(family: str, method: ModuleMethod, tmp_path: Path) -> None:
    pair = Pair(tiny_base(family), method, tiny_prompt(WORDS), tiny_texts(5), size=1.0)
    model, tokenizer = hub(family)
    loaded = pair.loaded(model, tmp_path, config_of(pair.base, method))
    in_front = 0 if isinstance(method, PrefixTuning) else TOKENS
    expected = pair.oracle(loaded, tokenizer, hub(family)[0], in_front)
    assert not torch.allclose(expected[0], Oracle(*hub(family)).scores(pair.prompt, pair.texts[0]), atol=1e-2)
    assert close(pair.scores(), expected)


@pytest.mark.parametrize(
    "method",
    [PromptTuning(tokens=TOKENS, head=False), PrefixTuning(tokens=TOKENS, head=False)],
    ids=["prompt", "prefix"],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_peft_s(family: str, method: ModuleMethod, tmp_path: Path) -> None:
    pair = Pair(tiny_base(family), method, tiny_prompt(WORDS), tiny_texts(5), size=1.0)
    model, tokenizer = hub(family)
    loaded = pair.loaded(model, tmp_path, config_of(pair.base, method))
    theirs = loaded.prompt_encoder["default"].embedding.weight.requires_grad_()
    in_front = 0 if isinstance(method, PrefixTuning) else TOKENS
    weighed(pair.oracle(loaded, tokenizer, hub(family)[0], in_front)).backward()
    assert alike(pair.gradient(), theirs.grad)


# --- what peft does not have -----------------------------------------------------------------------------------------


class AnswerOracle(Oracle):
    """A hub model that is given the virtual tokens of an answer span at some layer, by what it takes for input itself.

    The layers below that one are run by the whole model; those from there on by a copy that lacks those below.
    """

    def __init__(self, family: str, pair: Pair, floor: int) -> None:
        super().__init__(*hub(family))
        self.pair, self.floor, (self.top, _) = pair, floor, hub(family)
        if floor:
            self.top.model.layers = self.top.model.layers[floor:]
            for number, layer in enumerate(self.top.model.layers):
                layer.self_attn.layer_idx = number
            self.top.config.num_hidden_layers = len(self.top.model.layers)

    def _decoder(self, prompt: Prompt, text: Text) -> Tensor:
        start, tail = self.prompt_ids(prompt, text)

        def after(prefix: tuple[int, ...]) -> Tensor:
            ids = torch.tensor([[*start, *tail, *prefix]])
            if self.floor:
                h_btd = self.model(input_ids=ids, output_hidden_states=True).hidden_states[self.floor]
            else:
                h_btd = self.model.get_input_embeddings()(ids)
            logits: Tensor = self.after(h_btd, len(start)).logits[0, -1]
            return logits

        return constrained([self.ids(f" {word}") for word in prompt.words], self.tokenizer.eos_token_id, after)

    def after(self, h_btd: Tensor, start: int) -> Any:
        own, tokens = self.pair.own, h_btd.shape[1]
        if "tokens" in own:
            states = own["tokens"]["states"][None]
            return self.top(inputs_embeds=torch.cat([h_btd[:, :start], states, h_btd[:, start:]], 1), use_cache=False)
        width = self.model.config.hidden_size // self.model.config.num_attention_heads
        cache = DynamicCache()
        for number, layer in enumerate(range(self.floor, self.pair.base.family.layers)):
            keys, values = (x.view(1, TOKENS, -1, width).transpose(1, 2) for x in own[f"kv.{layer}"]["prefix"])
            cache.update(keys, values, number)
        seen = torch.cat([torch.zeros(tokens, TOKENS), torch.ones(tokens, tokens).tril()], 1)
        seen[start:, :TOKENS] = 1
        mask = (1 - seen).mul(torch.finfo(torch.float32).min)[None, None]
        places = torch.arange(tokens)[None]
        return self.top(inputs_embeds=h_btd, past_key_values=cache, attention_mask=mask, position_ids=places)


@pytest.mark.parametrize("method", [PromptTuning(tokens=TOKENS), PrefixTuning(tokens=TOKENS)], ids=["prompt", "prefix"])
@pytest.mark.parametrize(("family", "depth"), [("llama", 3), ("gpt2", 3), ("llama", 1)])
@torch.no_grad()
def test_in_the_answer_span_they_stand_before_the_tail(family: str, depth: int, method: ModuleMethod) -> None:
    region = RegionSpec(depth=depth, span="answer")
    pair = Pair(tiny_base(family), method, tiny_prompt(WORDS), tiny_texts(5), 1.0, region)
    judge = AnswerOracle(family, pair, 3 - depth)
    assert close(pair.scores(), torch.stack([judge.scores(pair.prompt, text) for text in pair.texts]))


@torch.no_grad()
def test_in_the_answer_span_of_an_encoder_decoder_they_stand_before_the_start() -> None:
    pair = Pair(
        tiny_base("t5"), PromptTuning(tokens=TOKENS), tiny_prompt(WORDS), tiny_texts(5), 1.0, RegionSpec(span="answer")
    )
    model, tokenizer = hub("t5")
    judge, states, rows = Oracle(model, tokenizer), pair.own["tokens"]["states"][None], []
    for text in pair.texts:
        ids = torch.tensor([judge.ids(f"{pair.prompt.instruction}\n\n{body_of(text)}", special=True)])

        def after(prefix: tuple[int, ...], ids: Tensor = ids) -> Tensor:
            own = model.decoder.embed_tokens(torch.tensor([[model.config.decoder_start_token_id, *prefix]]))
            out = model(input_ids=ids, decoder_inputs_embeds=torch.cat([states, own], 1), use_cache=False)
            logits: Tensor = out.logits[0, -1]
            return logits

        rows.append(constrained([judge.ids(word) for word in WORDS], tokenizer.eos_token_id, after))
    assert close(pair.scores(), torch.stack(rows))


@torch.no_grad()
def test_the_decoder_s_prefix_is_the_same_in_both_spans() -> None:
    scores = [
        Pair(
            tiny_base("t5"), PrefixTuning(tokens=TOKENS), tiny_prompt(WORDS), tiny_texts(5), 1.0, RegionSpec(span=span)
        )
        for span in ("all", "answer")
    ]
    assert close(*(pair.scores() for pair in scores))


@pytest.mark.weights
@pytest.mark.parametrize(
    "method",
    [
        PrefixTuning(tokens=TOKENS),
        *(
            pytest.param(method, marks=pytest.mark.slow)
            for method in (PromptTuning(tokens=TOKENS), PTuning(tokens=TOKENS))
        ),
    ],
    ids=lambda method: method.card.name,
)
@torch.no_grad()
def test_smollm2_is_peft_too(method: ModuleMethod, tmp_path: Path) -> None:
    folder = real("smollm2-135m-instruct")
    prompt = Prompt("Is this post hateful? Answer in one of three ways.", ("agree strongly", "agree", "no"))
    base = load_base("smollm2-135m-instruct", CPU)
    pair = Pair(base, method, prompt, NOTES, size=0.2)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    loaded = pair.loaded(model, tmp_path, config_of(base, method))
    expected = pair.oracle(loaded, AutoTokenizer.from_pretrained(folder), None, 0)
    assert close(pair.scores(), expected)
