"""What ``adapter_config.json`` may say: what changes the numbers is read or refused, never passed over."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from test_peft_io import LORA as METHOD
from test_peft_io import Case, close, hub, tiny
from test_virtual_against_peft import TextOracle
from torch import Tensor

from peftu.errors import PeftuError
from peftu.methods.lora import Lora
from peftu.methods.prefix_tuning import PrefixTuning
from peftu.outside import quoted
from peftu.peft_config import IA3, LORA, PREFIX_TUNING, PROMPT_TUNING, Keys, check_targets
from peftu.peft_formats import CONFIG

torch.set_num_threads(1)
pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # what peft thinks of what it is asked for here
]

TARGETS = ["q_proj", "v_proj", "o_proj", "down_proj"]
# What a trained module's numbers do not depend on, by peft's own source: the start of training, its losses, how it is
# merged, quantised and split over machines. And what is checked: kind, base, places, sizes, scaling.
OF_ALL = {
    *("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    "inference_mode",
}
EMPTY = {"rank_pattern", "alpha_pattern", "loftq_config"}  # at rest in peft; of other keys {} is a part's defaults
SIZES = {"num_virtual_tokens", "token_dim", "num_attention_heads", "num_layers"}
KNOWN: Mapping[type[Any], tuple[Keys, set[str]]] = {
    peft.LoraConfig: (
        LORA,
        {
            *("r", "lora_alpha", "use_rslora", "alora_invocation_tokens", "target_modules", "exclude_modules"),
            *("layers_to_transform", "layers_pattern", "lora_dropout", "fan_in_fan_out", "eva_config"),
            *("qalora_group_size", "megatron_core", "runtime_config"),
        },
    ),
    peft.IA3Config: (
        IA3,
        {"target_modules", "exclude_modules", "feedforward_modules", "fan_in_fan_out", "init_ia3_weights"},
    ),
    peft.PromptTuningConfig: (
        PROMPT_TUNING,
        {*SIZES, "prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs"},
    ),
    peft.PrefixTuningConfig: (
        PREFIX_TUNING,
        {*SIZES, "num_transformer_submodules", "init_weights", "encoder_hidden_size", "prefix_projection"},
    ),
}
each_kind = pytest.mark.parametrize("kind", KNOWN, ids=lambda kind: kind.__name__)


@each_kind
def test_every_other_key_of_peft_s_is_refused_when_it_is_used(kind: type[Any]) -> None:
    keys, known = KNOWN[kind]
    names = {field.name for field in dataclasses.fields(kind)}
    assert known <= names
    for name in names - known - OF_ALL:
        for used in (True, 3, 0.5, "brand-new", "", ["a"], {"a": 1}, {}):
            if (name == "init_lora_weights" and used is True) or (name in EMPTY and used == {}):
                continue
            with pytest.raises(PeftuError, match=f"config: '{name}' is .* — ") as caught:
                keys.check(Path("config"), {name: used})
            assert "\n" not in str(caught.value)


@each_kind
def test_what_peft_writes_of_itself_is_taken(kind: type[Any]) -> None:
    keys, _ = KNOWN[kind]
    keys.check(Path("config"), json.loads(json.dumps(kind().to_dict())))
    keys.check(Path("config"), {"of_a_later_peft": None, "another": False})
    for used in (True, 1, "on", {"a": None}, {}):
        with pytest.raises(PeftuError, match="'of_a_later_peft' is"):
            keys.check(Path("config"), {"of_a_later_peft": used})


def test_what_a_file_says_is_shown_on_one_short_line() -> None:
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    for value in ("a\nb\x1b[31m\u202e", "x" * 10_000, deep, 10**4000, 10**5000, {"k" * 999: [1] * 999}):
        said = quoted(value)
        assert len(said) < 500
        assert said.isprintable()


@pytest.mark.parametrize(
    "said",
    [
        {"target_modules": ["k_proj"]},
        {"target_modules": ["proj"]},
        {"target_modules": []},
        {"target_modules": 3},
        {"target_modules": None},  # peft would take its own choice for a llama
        {},
        {"target_modules": ["q_proj"], "exclude_modules": {"q_proj": 1}},
        {"target_modules": ["q_proj"], "exclude_modules": ["model.layers.1.self_attn.q_proj"]},
        {"target_modules": ["q_proj"], "layers_to_transform": [0, 2]},
        {"target_modules": ["q_proj"], "layers_to_transform": 0},
    ],
)
def test_tensors_that_peft_would_leave_out_are_refused(said: dict[str, Any]) -> None:
    site = "model.layers.1.self_attn.q_proj"
    for right in (["q_proj"], [site], "all-linear"):
        check_targets(Path("config"), {"target_modules": right, "layers_to_transform": [1]}, [site])
    with pytest.raises(PeftuError, match=r"config: does not target model\.layers\.1\.self_attn\.q_proj"):
        check_targets(Path("config"), said, [site])


# --- modules that peft trained ---------------------------------------------------------------------------------------


def trained(config: Any) -> Any:
    """Returns a model of peft's whose module is as far from its start as training would take it."""
    wrapped = peft.get_peft_model(hub("llama")[0], config).eval()
    wrapped.peft_config["default"].base_model_name_or_path = "tiny-llama"
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_" in name:
                weight.add_(0.2 * torch.randn(weight.shape, generator=generator))
    return wrapped


def started(start: object) -> Any:
    return peft.LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS, init_lora_weights=start)


@torch.no_grad()
def scores(case: Case, model: Any) -> Tensor:
    judge = TextOracle(model, hub("llama")[1])
    return torch.stack([judge.scores(case.prompt, text) for text in case.texts])


@pytest.mark.parametrize("start", [True, False, "gaussian", "orthogonal", "eva", "mica"])
def test_a_start_that_leaves_the_base_alone_is_taken(start: object, tmp_path: Path) -> None:
    model, case = trained(started(start)), tiny("llama", METHOD)
    model.save_pretrained(str(tmp_path), save_embedding_layers=False)
    case.row = case.read(tmp_path)
    assert close(case.scores(), scores(case, model))


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_2", "olora"])
def test_a_start_that_changes_the_base_is_refused(start: str, tmp_path: Path) -> None:
    trained(started(start)).save_pretrained(str(tmp_path), save_embedding_layers=False)
    with pytest.raises(PeftuError, match=f"'init_lora_weights' is '{start}' — it changes the base's own weights"):
        tiny("llama", METHOD).read(tmp_path)


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_what_peft_makes_plain_lora_of_is_taken(start: str, tmp_path: Path) -> None:
    begun = peft.get_peft_model(hub("llama")[0], started(start))
    begun.peft_config["default"].init_lora_weights = True  # as peft asks of a start that is to be taken off
    begun.save_pretrained(str(tmp_path / "start"), save_embedding_layers=False)
    model, case = trained(started(start)), tiny("llama", Lora(rank=8))
    own = scores(case, model)
    model.save_pretrained(
        str(tmp_path), save_embedding_layers=False, path_initial_model_for_weight_conversion=str(tmp_path / "start")
    )
    case.row = case.read(tmp_path)
    assert close(case.scores(), own)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"use_dora": True}, "'use_dora' is True"),
        ({"bias": "all"}, "'bias' is 'all'"),
        ({"rank_pattern": {"q_proj": 2}}, "'rank_pattern' is"),
        ({"alpha_pattern": {"q_proj": 2}}, "'alpha_pattern' is"),
        ({"modules_to_save": ["lm_head"]}, "'modules_to_save' is"),
        ({"lora_bias": True}, "'lora_bias' is True"),
        ({"trainable_token_indices": [1, 2]}, "'trainable_token_indices' is"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "'layer_replication' is"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_peft_can_and_we_cannot_is_refused(more: dict[str, Any], said: str, tmp_path: Path) -> None:
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS, **more)
    trained(config).save_pretrained(str(tmp_path), save_embedding_layers=False)
    with pytest.raises(PeftuError, match=said):
        tiny("llama", METHOD).read(tmp_path)


def test_a_prefix_that_was_projected_is_read_as_peft_keeps_it(tmp_path: Path) -> None:
    config = peft.PrefixTuningConfig(
        num_virtual_tokens=3, task_type="CAUSAL_LM", prefix_projection=True, encoder_hidden_size=8
    )
    model, case = trained(config), tiny("llama", PrefixTuning(tokens=3))
    model.save_pretrained(str(tmp_path), save_embedding_layers=False)
    assert json.loads((tmp_path / CONFIG).read_text())["prefix_projection"] is True
    case.row = case.read(tmp_path)
    assert close(case.scores(), scores(case, model))
