"""Tiny random bases of every family, made in a moment, without a download."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from peftu.base.hardware import DTYPES, resolved
from peftu.base.model import FrozenBase, wrap
from peftu.config import HardwareSpec

CPU = HardwareSpec(device="cpu", dtype="float32")  # where tests compute, whatever the machine has
FAMILIES = ("llama", "gpt2", "bert", "t5")
WIDTH, INNER, HEADS = 32, 48, 4
SPREAD = 0.2  # standard deviation of the weights: large enough for every part of the model to matter
_SPECIAL = ["<pad>", "</s>", "<s>", "<unk>"]


def tiny_tokenizer(closing: bool = False, special: Sequence[str] = _SPECIAL) -> Any:
    """Returns a tokenizer with one token a character; ``closing`` ends every text with </s>, as T5's does.

    The ``special`` tokens come first, in their order.
    """
    characters = [chr(c) for c in range(32, 127)] + ["\n"]
    vocabulary = {token: number for number, token in enumerate([*special, *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    if closing:
        end = ("</s>", vocabulary["</s>"])
        tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[end])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",  # noqa: S106
        eos_token="</s>",  # noqa: S106
        bos_token="<s>",  # noqa: S106
        unk_token="<unk>",  # noqa: S106
    )


def _llama(size: int, layers: int) -> Any:
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS // 2,
        eos_token_id=1,
        bos_token_id=2,
    )
    return LlamaForCausalLM(config)


def _gpt2(size: int, layers: int) -> Any:
    config = GPT2Config(
        vocab_size=size,
        n_positions=512,
        n_embd=WIDTH,
        n_layer=layers,
        n_head=HEADS,
        eos_token_id=1,
        bos_token_id=2,
    )
    return GPT2LMHeadModel(config)


def _bert(size: int, layers: int) -> Any:
    config = BertConfig(
        vocab_size=size,
        hidden_size=WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        intermediate_size=INNER,
    )
    return BertModel(config, add_pooling_layer=False)


def _t5(size: int, layers: int) -> Any:
    config = T5Config(
        vocab_size=size,
        d_model=WIDTH,
        d_kv=WIDTH // HEADS,
        d_ff=INNER,
        num_layers=layers,
        num_heads=HEADS,
        decoder_start_token_id=0,
    )
    return T5ForConditionalGeneration(config)


_MAKERS: dict[str, Callable[[int, int], Any]] = {"llama": _llama, "gpt2": _gpt2, "bert": _bert, "t5": _t5}


def tiny_model(family: str, seed: int = 0, layers: int = 3) -> tuple[Any, Any]:
    """Returns a hub model of a family ('llama', 'gpt2', 'bert', 't5') and its tokenizer, as transformers has them.

    The weights come from the seed alone, not from how a release of transformers starts a model.
    """
    tokenizer = tiny_tokenizer(closing=family in ("t5", "bert"))
    with torch.random.fork_rng():
        model = _MAKERS[family](len(tokenizer), layers).eval()
    randomise(model, seed)
    return model, tokenizer


@torch.no_grad()
def randomise(model: torch.nn.Module, seed: int = 0) -> None:
    """Fills a model's weights from a seed, biases and norms included, so that leaving one out shows."""
    rng = np.random.Generator(np.random.PCG64(seed))
    for name, weight in sorted(model.named_parameters()):
        values = rng.normal(scale=SPREAD, size=tuple(weight.shape))
        centre = 1.0 if weight.ndim == 1 and name.endswith("weight") else 0.0  # a norm's gain
        weight.copy_(torch.from_numpy(values + centre))


def tiny_base(family: str, seed: int = 0, layers: int = 3, dtype: torch.dtype = torch.float32) -> FrozenBase:
    """Returns the frozen base around ``tiny_model``."""
    model, tokenizer = tiny_model(family, seed, layers)
    return wrap(model.to(dtype), tokenizer, f"tiny-{family}")


def save_tiny(family: str, folder: Path) -> None:
    """Writes a tiny base of a family to a folder, as its hub model and tokenizer are saved."""
    for part in tiny_model(family):
        part.save_pretrained(folder)


def load_tiny(name: str, hardware: HardwareSpec | None = None, *_: Any) -> FrozenBase:
    """Returns the tiny base of the family of that name, called so too: stands in for ``load_base`` in tests of runs."""
    place, published = resolved(hardware or CPU), tiny_base(name).fingerprint
    model, tokenizer = tiny_model(name)
    return wrap(model.to(place.device, DTYPES[place.dtype]), tokenizer, name, published=published, hardware=place)


def flan_t5_base() -> FrozenBase:
    """Returns a base laid out like Flan-T5-base, without memory for its weights: for counting parameters."""
    config = T5Config(
        vocab_size=32128,
        d_model=768,
        d_kv=64,
        d_ff=2048,
        num_layers=12,
        num_heads=12,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
    )
    with torch.device("meta"):
        model = T5ForConditionalGeneration(config)
    return wrap(model, tiny_tokenizer(closing=True), "flan-t5-base", hardware=CPU)
