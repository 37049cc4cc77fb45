"""Every type of decoder: tiny random models score as transformers has them, and with LoRA as peft has them.

Texts are longer than the windows, and there are layers of each kind below and inside the regions.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hub
from oracle import Oracle
from test_against_peft import EVERYWHERE, Pair, alike, check_gradients, weighed
from torch import Tensor

from peftu.bank import Bound, Layout
from peftu.base.families.known import families
from peftu.base.model import FrozenBase, load_base, wrap
from peftu.base.sites import Site
from peftu.config import HardwareSpec, RegionSpec
from peftu.errors import PeftuError
from peftu.methods.bottleneck import Pfeiffer
from peftu.methods.lora import Lora
from peftu.testing import randomise, tiny_prompt, tiny_texts, tiny_tokenizer

torch.set_num_threads(1)
pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The following .*_pattern keys:RuntimeWarning"),  # peft's own, of experts
]

CLOSE = 1e-4
TOKENS = {"vocab_size": len(tiny_tokenizer()), "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
SHAPE = {**TOKENS, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
DENSE = {**SHAPE, "intermediate_size": 48}
GROUPED = {**DENSE, "num_key_value_heads": 2}
WIDE = {**GROUPED, "head_dim": 12}
WINDOW = 16
KINDS = ["sliding_attention", "full_attention", "sliding_attention"]
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "decoder_sparse_step": 1}
GATED = {"num_local_experts": 4, "num_experts_per_tok": 2}
STRETCHED = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 8.0}
STRETCHED |= {"short_factor": [1.0, 1.2, 1.5, 2.0], "long_factor": [1.0, 2.0, 4.0, 8.0]}
MULTIPLIERS = {"embedding_multiplier": 3.0, "residual_multiplier": 0.6, "attention_multiplier": 0.4}

TYPES: dict[str, Callable[[], Any]] = {
    "falcon": lambda: hub.FalconConfig(**SHAPE, multi_query=True, new_decoder_architecture=False),
    "falcon-new": lambda: hub.FalconConfig(**SHAPE, new_decoder_architecture=True, num_kv_heads=2),
    "gemma": lambda: hub.GemmaConfig(**WIDE),
    "gemma2": lambda: hub.Gemma2Config(
        **WIDE, layer_types=KINDS, sliding_window=WINDOW, attn_logit_softcapping=1.5, final_logit_softcapping=2.0
    ),
    "gemma3_text": lambda: hub.Gemma3TextConfig(
        **WIDE, layer_types=KINDS, sliding_window=WINDOW, query_pre_attn_scalar=8, final_logit_softcapping=2.0
    ),
    "gpt2": lambda: hub.GPT2Config(**TOKENS, n_positions=512, n_embd=32, n_layer=3, n_head=4),
    "gpt_neox": lambda: hub.GPTNeoXConfig(**DENSE),
    "gpt_oss": lambda: hub.GptOssConfig(**WIDE, **GATED, layer_types=KINDS, sliding_window=WINDOW),
    "granite": lambda: hub.GraniteConfig(**GROUPED, **MULTIPLIERS, logits_scaling=0.5),
    "llama": lambda: hub.LlamaConfig(**GROUPED, attention_bias=True, mlp_bias=True),
    "ministral": lambda: hub.MinistralConfig(**WIDE, layer_types=KINDS, sliding_window=WINDOW),
    "mistral": lambda: hub.MistralConfig(**WIDE, sliding_window=WINDOW),
    "olmo2": lambda: hub.Olmo2Config(**GROUPED),
    "phi3": lambda: hub.Phi3Config(**GROUPED, sliding_window=WINDOW),
    "phi3-long": lambda: stretched(8),
    "phi3-short": lambda: stretched(512),
    "qwen2": lambda: hub.Qwen2Config(**GROUPED, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1),
    "qwen3": lambda: hub.Qwen3Config(**WIDE),
    "qwen3_moe": lambda: hub.Qwen3MoeConfig(**WIDE, **EXPERTS, mlp_only_layers=[1]),
    "smollm3": lambda: hub.SmolLM3Config(
        **GROUPED, use_sliding_window=True, sliding_window=WINDOW, no_rope_layers=[1, 0, 1]
    ),
    "starcoder2": lambda: hub.Starcoder2Config(**GROUPED, sliding_window=WINDOW),
}


def stretched(usual: int) -> Any:
    return hub.Phi3Config(
        **GROUPED, rope_parameters=STRETCHED, max_position_embeddings=4096, original_max_position_embeddings=usual
    )


PROMPT, TEXTS = tiny_prompt(("no", "nor", "yes")), tiny_texts(4)
REGIONS = [RegionSpec(), None, RegionSpec(depth=2)]
REGIONS += [RegionSpec(depth=2, span="answer"), RegionSpec(depth=1, span="last")]
METHOD = Lora(rank=2, targets=EVERYWHERE, head=False)
ATTENTION = Lora(rank=2, targets=("q", "k", "v", "o"), head=False)


def model_of(name: str) -> Any:
    config = TYPES[name]()
    config.num_hidden_layers = 3
    model = hub.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    randomise(model, seed=1)
    return model


@cache
def base_of(name: str) -> FrozenBase:
    return wrap(model_of(name), tiny_tokenizer(), name)


def scores_of(base: FrozenBase, spec: RegionSpec | None) -> Tensor:
    return base.readout(base.prefill(PROMPT, TEXTS, base.region(spec)), torch.arange(len(TEXTS)))


def test_every_type_in_the_table_is_here() -> None:
    decoders = [family for family in map(families.get, families.names()) if family.kind == "decoder"]
    assert {name.partition("-")[0] for name in TYPES} == {name for family in decoders for name in family.types}


@pytest.mark.parametrize("name", TYPES)
def test_scores_are_the_hub_model_s_own(name: str) -> None:
    judge = Oracle(model_of(name), tiny_tokenizer())
    with torch.no_grad():
        expected = torch.stack([judge.scores(PROMPT, text) for text in TEXTS])
    assert float(expected.std()) > 100 * CLOSE
    for spec in REGIONS:
        assert torch.allclose(scores_of(base_of(name), spec), expected, atol=CLOSE), spec


@pytest.mark.parametrize("name", TYPES)
def test_lora_everywhere_is_peft(name: str) -> None:
    # Of a model with experts, peft takes the maps of a layer that has none for theirs.
    method = ATTENTION if name == "qwen3_moe" else METHOD
    pair, model = Pair(base_of(name), RegionSpec(), method, PROMPT, TEXTS), model_of(name)
    wrapped = pair.wrapped(model)
    expected = pair.oracle(wrapped, tiny_tokenizer())
    assert torch.allclose(pair.scores(), expected, atol=CLOSE)
    weighed(expected).backward()
    check_gradients(pair, wrapped)


@pytest.mark.parametrize("name", TYPES)
def test_lora_in_the_default_region_is_that_on_the_last_token(name: str) -> None:
    """By hooks on the hub's own model; peft has no such region but its aLoRA's, see test_peft_places."""
    spec = RegionSpec(depth=2, span="last")
    pair, model = Pair(base_of(name), spec, METHOD, PROMPT, TEXTS), model_of(name)
    judge, expected, length = Oracle(model, tiny_tokenizer()), [], 0
    with pair.only_after(model, lambda: length):
        for text in TEXTS:
            length = sum(map(len, judge.prompt_ids(PROMPT, text))) - 1
            expected.append(judge.scores(PROMPT, text))
    assert torch.allclose(pair.scores(), torch.stack(expected), atol=CLOSE)
    weighed(torch.stack(expected)).backward()
    for key, ours in pair.gradients().items():
        site, matrix = key.split()
        assert alike(ours, pair.own[site][matrix].grad), key


@pytest.mark.parametrize("name", TYPES)
def test_the_table_says_what_can_be_quantised(name: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    for part in (model_of(name), tiny_tokenizer()):
        part.save_pretrained(tmp_path)
    hardware = HardwareSpec(device="cpu", dtype="float32", quantize="nf4")
    family = type(base_of(name).family)
    if family.types[name.partition("-")[0]].quantize:
        assert scores_of(load_base(str(tmp_path), hardware), None).isfinite().all()
    else:
        with pytest.raises(PeftuError, match="which nf4 is for — leave --quantize out"):
            load_base(str(tmp_path), hardware)


@pytest.mark.parametrize("name", ["qwen3_moe", "gpt_oss"])
@torch.no_grad()
def test_an_adapter_stands_behind_a_layer_s_experts(name: str) -> None:
    base, model, method = base_of(name), model_of(name), Pfeiffer(reduction=8, parallel=True)
    sites = [site for site in base.sites(base.region(RegionSpec()), 3) if site.kind == "block"]
    layout = Layout(method, sites)
    row = layout.fresh(["somebody"], 0) + 0.3 * torch.randn(1, layout.width, generator=torch.Generator().manual_seed(0))
    own = layout.views(row)
    assert len(own) == 3
    for number, site in enumerate(sites):

        def adapted(_: Any, inputs: tuple[Tensor, ...], out: Any, site: Site = site) -> Any:
            y = out[0] if isinstance(out, tuple) else out
            y = method.apply(site, inputs[0].reshape(1, -1, 32), y.reshape(1, -1, 32), own[site.name]).view(y.shape)
            return (y, *out[1:]) if isinstance(out, tuple) else y

        model.model.layers[number].mlp.register_forward_hook(adapted)
    judge = Oracle(model, tiny_tokenizer())
    expected = torch.stack([judge.scores(PROMPT, text) for text in TEXTS])
    context = base.prefill(PROMPT, TEXTS, base.region(RegionSpec()))
    assert torch.allclose(base.readout(context, torch.arange(4), Bound(layout, own, 1)), expected, atol=CLOSE)


@pytest.mark.parametrize(
    ("config", "what"),
    [
        (lambda: hub.FalconConfig(**SHAPE, alibi=True), "falcon with ALiBi"),
        (lambda: hub.Gemma3TextConfig(**WIDE, use_bidirectional_attention=True), "attention to later tokens"),
    ],
)
def test_a_way_to_attend_that_is_not_known_is_one_line(config: Callable[[], Any], what: str) -> None:
    model = hub.AutoModelForCausalLM.from_config(config())
    with pytest.raises(PeftuError, match=what) as caught:
        wrap(model, tiny_tokenizer(), "strange")
    assert "\n" not in str(caught.value)
