"""Bases in eight and four bits: LoRA scores as in peft on the hub's own quantised model, and trains there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_against_peft import NOTES, Pair, real
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, BitsAndBytesConfig

from peftu.bank import Layout
from peftu.base.model import FrozenBase, load_base
from peftu.base.prompt import Prompt
from peftu.base.quantised import ready_quantised
from peftu.config import HardwareSpec, RegionSpec, TrainSpec
from peftu.errors import PeftuError
from peftu.methods.lora import Lora
from peftu.testing import CPU, tiny_prompt, tiny_texts, tiny_units
from peftu.testing.bases import save_tiny
from peftu.train import Trained, train

bnb = pytest.importorskip("bitsandbytes")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
]

CLOSE = 1e-3
WIDTHS = ("int8", "nf4")
BYTES = {"int8": 1.05, "nf4": 0.55}  # of a weight and its share of the constants, in layers as wide as models have
THEIRS: dict[str, dict[str, Any]] = {
    "int8": {"load_in_8bit": True},
    "nf4": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": torch.float32,
    },
}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    home = tmp_path_factory.mktemp("bases")

    def saved(family: str) -> Path:
        if not (home / family).exists():
            save_tiny(family, home / family)
        return home / family

    return saved


def quantised(folder: Path | str, how: Any) -> FrozenBase:
    return load_base(str(folder), HardwareSpec(device="cpu", dtype="float32", quantize=how))


def theirs(folder: Path, how: str, kind: Any = AutoModelForCausalLM) -> tuple[Any, Any]:
    config = BitsAndBytesConfig(**THEIRS[how])
    options: dict[str, Any] = {"dtype": torch.float32, "device_map": {"": "cpu"}, "attn_implementation": "eager"}
    model = kind.from_pretrained(folder, quantization_config=config, **options)
    return model, AutoTokenizer.from_pretrained(folder)


def with_whole_activations(model: Any) -> Any:
    """Returns the model; bitsandbytes does not quantise those in training, on a processor."""
    for layer in model.modules():
        if isinstance(layer, bnb.nn.Linear8bitLt):
            layer.train()
    return model


def far(ours: Tensor, other: Tensor) -> float:
    return (ours - other).abs().max().item()


@pytest.mark.parametrize("how", WIDTHS)
@pytest.mark.parametrize(("family", "kind"), [("llama", AutoModelForCausalLM), ("t5", AutoModelForSeq2SeqLM)])
@torch.no_grad()
def test_lora_on_a_quantised_base_scores_as_pefts(
    family: str, kind: Any, how: str, folder_of: Callable[[str], Path]
) -> None:
    folder = folder_of(family)
    pair = Pair(quantised(folder, how), RegionSpec(), Lora(rank=3, alpha=2), tiny_prompt(), tiny_texts(4))
    model, tokenizer = theirs(folder, how, kind)
    assert far(pair.scores(), pair.oracle(with_whole_activations(pair.wrapped(model)), tokenizer)) < CLOSE


@pytest.mark.parametrize("how", WIDTHS)
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_lora_trains_on_a_quantised_base_whoever_else_is_trained(
    family: str, how: str, folder_of: Callable[[str], Path]
) -> None:
    """It is trained as on a base that has the weights which the quantised ones stand for."""
    base, plain = quantised(folder_of(family), how), load_base(str(folder_of(family)), CPU)
    assert base.fingerprint == plain.fingerprint
    unpack(base.family.model, plain.family.model)
    units, spec = tiny_units((6, 5, 3), texts=12), TrainSpec(epochs=3, lr=1e-2, batch=4)

    def trained(base: FrozenBase, users: int) -> Trained:
        context = base.prefill(tiny_prompt(), tiny_texts(12), base.region(None))
        return train(base, context, Layout(Lora(rank=2), base.sites(base.region(None), 2)), units[:users], spec, 0)

    together, alone = trained(base, 3), trained(base, 1)
    assert far(together.rows[:1], alone.rows) < 1e-4
    assert any(log.best_epoch > 0 for log in together.logs)
    assert far(together.rows, trained(plain, 3).rows) < 1e-4


@torch.no_grad()
def unpack(quantised: nn.Module, plain: nn.Module) -> None:
    """Puts into a model the weights that a quantised one stands for."""
    for name, layer in quantised.named_modules():
        if isinstance(layer, bnb.nn.Linear4bit):
            whole = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        elif isinstance(layer, bnb.nn.Linear8bitLt):
            whole = layer.weight.data.float() * layer.weight.SCB[:, None] / 127
        else:
            continue
        other: Any = plain.get_submodule(name)
        other.weight.copy_(whole if isinstance(other, nn.Linear) else whole.T)


def weight_bytes(model: nn.Module) -> tuple[int, int]:
    """Returns the quantised weights of a model, and the bytes that they take with their constants."""
    numbers = size = 0
    for layer in model.modules():
        if isinstance(layer, bnb.nn.Linear4bit):
            state = layer.weight.quant_state
            kept = [layer.weight.data, state.absmax, state.code, state.state2.absmax, state.state2.code]
        elif isinstance(layer, bnb.nn.Linear8bitLt):
            kept = [layer.weight.data, layer.state.SCB if layer.weight.SCB is None else layer.weight.SCB]
        else:
            continue
        numbers += layer.in_features * layer.out_features
        size += sum(tensor.nbytes for tensor in kept)
    return numbers, size


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.parametrize("how", WIDTHS)
def test_smollm2_takes_the_room_that_is_promised_and_scores_as_pefts(how: str) -> None:
    folder = real("smollm2-135m-instruct")
    base = quantised("smollm2-135m-instruct", how)
    numbers, size = weight_bytes(base.family.model)
    assert numbers == 106_168_320  # every linear map of the 30 layers
    assert size < BYTES[how] * numbers
    prompt = Prompt("Is this post hateful? Answer in one of three ways.", ("agree strongly", "agree", "no"))
    pair = Pair(base, RegionSpec(), Lora(rank=4, alpha=1), prompt, NOTES[:1])
    model, tokenizer = theirs(folder, how)
    with torch.no_grad():
        assert far(pair.scores(), pair.oracle(with_whole_activations(pair.wrapped(model)), tokenizer)) < CLOSE
    assert any(gradient.abs().max() > 0 for gradient in pair.gradients().values())


def test_a_base_whose_weights_are_not_in_linear_maps_is_refused() -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = nn.Parameter(torch.zeros(8, 16, 16))

    mixture = nn.Module()
    mixture.layers = nn.ModuleList([Experts()])
    with pytest.raises(PeftuError, match="base tiny: 0% of its layers' weights stand in linear maps, which nf4 is for"):
        ready_quantised(mixture, HardwareSpec(quantize="nf4"), "tiny")
