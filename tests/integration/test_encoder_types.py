"""Every type of encoder that is read: as transformers reads it, its modules as peft has them, its users apart."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hub
from oracle import Oracle
from test_against_peft import EVERYWHERE, WORDS, Pair, check_gradients, check_read_as_alone, close, weighed

from peftu.bank import Layout
from peftu.base.families.known import families
from peftu.base.model import FrozenBase, load_base, wrap
from peftu.config import RegionSpec
from peftu.errors import PeftuError
from peftu.methods.lora import Lora
from peftu.methods.prefix_tuning import PrefixTuning
from peftu.methods.prompt_tuning import PromptTuning
from peftu.testing import CPU, randomise, tiny_prompt, tiny_texts, tiny_tokenizer

torch.set_num_threads(1)
# peft 0.21 asks transformers 5 for an attribute under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")  # as MPNet and RoBERTa have them: places are counted from <pad> on
SIZE = len(tiny_tokenizer())
TOKENS = {"vocab_size": SIZE, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
SHAPE = {**TOKENS, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
DISTIL = {**TOKENS, "dim": 32, "hidden_dim": 48, "n_layers": 3, "n_heads": 4}
FAR_AND_NEAR = {"local_attention": 8, "global_attn_every_n_layers": 2, "cls_token_id": 0, "sep_token_id": 2}
DISENTANGLED = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
V2 = {**DISENTANGLED, "max_relative_positions": 20}
V3 = {**DISENTANGLED, "share_att_key": True, "position_buckets": 8, "norm_rel_ebd": "layer_norm"}
V3 |= {"type_vocab_size": 0, "position_biased_input": False}

TYPES: dict[str, Callable[[], Any]] = {
    "bert": lambda: hub.BertModel(hub.BertConfig(**SHAPE), add_pooling_layer=False),
    "roberta": lambda: hub.RobertaModel(hub.RobertaConfig(**SHAPE), add_pooling_layer=False),
    "xlm-roberta": lambda: hub.XLMRobertaModel(hub.XLMRobertaConfig(**SHAPE), add_pooling_layer=False),
    "distilbert": lambda: hub.DistilBertModel(hub.DistilBertConfig(**DISTIL)),
    "electra": lambda: hub.ElectraModel(hub.ElectraConfig(**SHAPE, embedding_size=16)),
    "mpnet": lambda: hub.MPNetModel(hub.MPNetConfig(**SHAPE), add_pooling_layer=False),
    "modernbert": lambda: hub.ModernBertModel(hub.ModernBertConfig(**SHAPE, **FAR_AND_NEAR)),
    "deberta-v2": lambda: hub.DebertaV2Model(hub.DebertaV2Config(**SHAPE, **V2)),
    "deberta-v2-as-v3": lambda: hub.DebertaV2Model(hub.DebertaV2Config(**SHAPE, **V3)),
    "deberta-v2-c2p": lambda: hub.DebertaV2Model(hub.DebertaV2Config(**SHAPE, **{**V3, "pos_att_type": ["c2p"]})),
    "deberta-v2-absolute": lambda: hub.DebertaV2Model(hub.DebertaV2Config(**SHAPE)),
}
SPECS = [RegionSpec(), RegionSpec(depth=2)]  # the default's is the second
each_type = pytest.mark.parametrize("name", TYPES)
each_region = pytest.mark.parametrize("spec", SPECS, ids=str)


def model_of(name: str) -> Any:
    model = TYPES[name]().eval()
    randomise(model, seed=1)
    return model


def base_of(name: str) -> FrozenBase:
    return wrap(model_of(name), tiny_tokenizer(True, SPECIAL), name)


def test_no_type_is_left_out() -> None:
    known = {
        name for family in map(families.get, families.names()) if family.kind == "encoder" for name in family.types
    }
    assert {model_of(name).config.model_type for name in TYPES} == known


@each_type
def test_label_scores_are_the_hub_model_s_own(name: str, tmp_path: Path) -> None:
    """Also of a base that was saved and read again."""
    base, prompt, texts = base_of(name), tiny_prompt(WORDS), tiny_texts(5)
    judge = Oracle(model_of(name), base.family.tokenizer)
    with torch.no_grad():
        expected = torch.stack([judge.scores(prompt, text) for text in texts])
    base.family.model.save_pretrained(tmp_path)  # type: ignore[operator]
    base.family.tokenizer.save_pretrained(tmp_path)
    for spec in [*SPECS, RegionSpec(depth=1)]:
        for read in (base, load_base(str(tmp_path), CPU)):
            context = read.prefill(prompt, texts, read.region(spec))
            assert close(read.readout(context, torch.arange(5)), expected), spec


@each_region
@each_type
def test_scores_and_gradients_of_lora_are_peft_s(name: str, spec: RegionSpec) -> None:
    method = Lora(rank=2, targets=EVERYWHERE, head=False)
    pair = Pair(base_of(name), spec, method, tiny_prompt(WORDS), tiny_texts(5))
    roles = {site.role for site in pair.layout.sites.values()}
    assert {"o", "up", "down"} < roles
    assert {"q", "k", "v"} < roles or "qkv" in roles
    wrapped = pair.wrapped(model_of(name))
    theirs = pair.oracle(wrapped, pair.base.family.tokenizer, model_of(name))
    assert close(pair.scores(), theirs)
    weighed(theirs).backward()
    check_gradients(pair, wrapped)


@pytest.mark.parametrize(
    "method",
    [Lora(rank=2, alpha=2, targets=EVERYWHERE), PromptTuning(tokens=3), PrefixTuning(tokens=2)],
    ids=lambda m: m.card.name,
)
@each_type
def test_users_read_together_are_read_as_alone(name: str, method: Any) -> None:
    base = base_of(name)
    region = base.region(RegionSpec())
    context = base.prefill(tiny_prompt(), tiny_texts(4), region)
    layout = Layout(method, base.sites(region, 2))
    check_read_as_alone(base, context, layout)


def test_a_deberta_with_a_convolution_is_refused() -> None:
    model = hub.DebertaV2Model(hub.DebertaV2Config(**SHAPE, **V2, conv_kernel_size=3))
    with pytest.raises(PeftuError, match=r"a DeBERTa with a convolution.*use a v3") as caught:
        wrap(model, tiny_tokenizer(True, SPECIAL), "xlarge")
    assert "\n" not in str(caught.value)
