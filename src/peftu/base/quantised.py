"""Bases whose layers are held in eight or four bits by bitsandbytes, quantised as the published weights are read."""

from functools import partial
from typing import Any, cast

from torch import Tensor, nn

from peftu.base.files import LAYER
from peftu.base.hardware import DTYPES
from peftu.config import HardwareSpec
from peftu.errors import PeftuError

LEAST = 0.5  # of the layers' weights: where fewer can be quantised, memory would not be as promised


def loading_options(hardware: HardwareSpec) -> dict[str, Any]:
    """Returns what ``from_pretrained`` is passed so that linear layers are quantised one by one, as they are read.

    int8 holds weights as LLM.int8() does (Dettmers et al. 2022), each row scaled by its largest number, and multiplies
    whole activations with them. nf4 is QLoRA's (Dettmers et al. 2023), its constants quantised, too.
    """
    if hardware.quantize == "none":
        return {}
    from transformers import BitsAndBytesConfig

    how: dict[str, Any] = {"load_in_8bit": True}
    if hardware.quantize == "nf4":
        how = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
        how["bnb_4bit_compute_dtype"] = DTYPES[hardware.dtype]
    return {"quantization_config": BitsAndBytesConfig(**how), "device_map": {"": hardware.device}}


def ready_quantised(model: nn.Module, hardware: HardwareSpec, name: str) -> None:
    """Readies a base that was read with `loading_options` for training, once most of its layers are quantised.

    Raises:
        PeftuError: they are not: their weights do not stand in linear maps, as those of mixtures of experts.
    """
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    done = 0
    for path, module in model.named_modules():
        if LAYER.search(path) and isinstance(module, Linear4bit | Linear8bitLt):
            done += module.in_features * module.out_features
            module.support_avx512bf16_for_cpu = False  # it repacks weights that were read once, and has no gradient
            if isinstance(module, Linear8bitLt):
                module.forward = partial(_whole_activations, module)
    weights = (weight for path, weight in model.named_parameters() if LAYER.search(path))
    whole = sum(weight.numel() for weight in weights if weight.is_floating_point())
    if done < LEAST * (done + whole):
        how, share = hardware.quantize, done / max(1, done + whole)
        raise PeftuError(
            f"base {name}: {share:.0%} of its layers' weights stand in linear maps, which {how} is for — "
            "leave --quantize out"
        )


def _whole_activations(layer: Any, x: Tensor) -> Tensor:
    """Returns the output of an eight-bit layer, its weights made whole for the moment, forward and backward.

    The layer's own product quantises activations, too: scores are then six times as far from those of the whole base
    (measured on SmolLM2), and those of a text depend on what else is in its batch.
    """
    from bitsandbytes.autograd._functions import MatMul8bitFp

    if layer.weight.CB is not None:
        layer.init_8bit_state()
    return cast(Tensor, MatMul8bitFp.apply(x, layer.weight, None, layer.bias, layer.state))
