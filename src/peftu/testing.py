"""Tiny random bases and synthetic users, for the tests of peftu and of packages that add to it."""

from typing import Any

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

from peftu.base.model import FrozenBase, wrap

FAMILIES = ("llama", "gpt2", "bert", "t5")
_SPECIAL = ["<pad>", "</s>", "<s>", "<unk>"]


def tiny_tokenizer(closing: bool = False) -> Any:
    """Returns a tokenizer with one token a character; ``closing`` ends every text with </s>, as T5's does."""
    characters = [chr(c) for c in range(32, 127)] + ["\n"]
    vocabulary = {token: number for number, token in enumerate([*_SPECIAL, *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    if closing:
        tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",  # noqa: S106
        eos_token="</s>",  # noqa: S106
        bos_token="<s>",  # noqa: S106
        unk_token="<unk>",  # noqa: S106
    )


def tiny_base(family: str, seed: int = 0, layers: int = 3, dtype: torch.dtype = torch.float32) -> FrozenBase:
    """Returns a random base of a family ('llama', 'gpt2', 'bert', 't5') with weights large enough to matter."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tokenizer = tiny_tokenizer(closing=family in ("t5", "bert"))
        size = len(tokenizer)
        model: Any
        if family == "llama":
            model = LlamaForCausalLM(
                LlamaConfig(
                    vocab_size=size,
                    hidden_size=32,
                    intermediate_size=48,
                    num_hidden_layers=layers,
                    num_attention_heads=4,
                    num_key_value_heads=2,
                    initializer_range=0.2,
                )
            )
        elif family == "gpt2":
            model = GPT2LMHeadModel(
                GPT2Config(vocab_size=size, n_positions=512, n_embd=32, n_layer=layers, n_head=4, initializer_range=0.2)
            )
        elif family == "bert":
            config = BertConfig(
                vocab_size=size,
                hidden_size=32,
                num_hidden_layers=layers,
                num_attention_heads=4,
                intermediate_size=48,
                initializer_range=0.2,
            )
            model = BertModel(config, add_pooling_layer=False)
        else:
            model = T5ForConditionalGeneration(
                T5Config(
                    vocab_size=size,
                    d_model=32,
                    d_kv=8,
                    d_ff=48,
                    num_layers=layers,
                    num_heads=4,
                    decoder_start_token_id=0,
                )
            )
    return wrap(model.to(dtype), tokenizer, f"tiny-{family}")
