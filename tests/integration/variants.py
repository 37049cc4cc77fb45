"""Small tokenizers and chat templates, each as some family of public models has it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "The soup is cold. Is it good? No, it is not.",
    "yes no nor maybe yes no nor maybe 1 2 3 10 12 123",
    "user assistant system Answer: yes Answer: no Answer: nor",
    "I love it.\n\nReply: the soup.\n\nYou said it.\n",
    "Like it? Answer yes or no. yes and no. Fine, why not?",
] * 6
SPECIAL = ["<pad>", "</s>", "<s>", "<unk>", "<|im_start|>", "<|im_end|>"]
SPLIT = Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
KEEPS_TWO_ROLES = (
    "{% for m in messages %}{% if m.role == 'user' %}<|im_start|>user\n{{ m.content }}<|im_end|>\n"
    "{% elif m.role == 'assistant' %}<|im_start|>assistant\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
REFUSES_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHAT
INSTRUCTS = (  # answers follow a space, texts lose theirs
    "{% for m in messages %}{% if m.role == 'user' %}<s>[INST] {{ m.content | trim }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content | trim }} </s>{% endif %}{% endfor %}"
)
SYSTEM_LAST = (  # the system's words stand in the last turn, and only while it awaits its answer
    "{% for m in messages %}{% if m.role == 'user' %}<s>[INST] {% if loop.last and messages[0].role == 'system' %}"
    "{{ messages[0].content }}\n\n{% endif %}{{ m.content }}[/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}</s>{% endif %}{% endfor %}"
)
THINKS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
THINKS_ALWAYS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
CHANNELS = (  # an answer has a mark that a thought has not
    "{% for m in messages %}<|im_start|>{{ m.role }}{% if m.role == 'assistant' %}<s>final{% endif %}<|im_end|>"
    "{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)
BEGINS = "{{ bos_token }}" + CHAT
DATED = "<|im_start|>system\nToday: {{ strftime_now('%d %B %Y') }}<|im_end|>\n" + CHAT


@dataclass(frozen=True)
class Variant:
    """A tokenizer and what an oracle must know of its template."""

    make: Callable[[], Any]
    system: bool = True


def _wrapped(tokenizer: Tokenizer, template: str | None = None, **roles: str | None) -> Any:
    given = {"pad_token": "<pad>", "eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>", **roles}
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{role: token for role, token in given.items() if token is not None}
    )
    wrapped.chat_template = template
    return wrapped


def _bpe(pre: Any, decoder: Any = None, size: int = 330) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))  # noqa: S106
    tokenizer.pre_tokenizer = pre
    if decoder is not None:
        tokenizer.decoder = decoder
    alphabet = pre_tokenizers.ByteLevel.alphabet() if decoder is not None else ["\n", "\u2581"]
    options = {"special_tokens": SPECIAL, "initial_alphabet": alphabet, "show_progress": False}
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=size, **options))
    return tokenizer


def byte_level(template: str | None = None, **roles: str | None) -> Any:
    """GPT-2, Llama 3, Qwen, SmolLM: bytes; punctuation takes the line breaks behind it along."""
    pre = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(SPLIT, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    return _wrapped(_bpe(pre, decoder=decoders.ByteLevel()), template, **roles)


def closing(template: str | None = None) -> Any:
    """Llama, Gemma, Mistral: begins each string, and here ends it, too."""
    tokenizer = byte_level(template)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 1)]
    )
    return tokenizer


def metaspace(scheme: str, template: str | None = None) -> Any:
    """Mistral, Phi-3: a mark for each word's beginning."""
    return _wrapped(_bpe(pre_tokenizers.Metaspace(prepend_scheme=scheme, split=True)), template)


def prepended(template: str | None = None) -> Any:
    """Llama 2: a normalizer puts the mark in front and in the place of each space; words are split in training only."""
    tokenizer = _bpe(pre_tokenizers.Metaspace(prepend_scheme="first", split=True))
    state = json.loads(tokenizer.to_str()) | {"pre_tokenizer": None}
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    return _wrapped(tokenizer, template)


def skipping() -> Any:
    """Phi-3: a control token that swallows the white space behind it."""
    tokenizer = _bpe(pre_tokenizers.Metaspace(prepend_scheme="first", split=True))
    tokenizer.add_special_tokens([AddedToken("<|assistant|>", rstrip=True, special=True)])
    template = CHAT.replace("<|im_start|>assistant\n{% endif", "<|assistant|>\n{% endif").replace(
        "<|im_start|>{{ m.role }}\n",
        "{% if m.role == 'assistant' %}<|assistant|>\n{% else %}<|im_start|>{{ m.role }}\n{% endif %}",
    )
    return _wrapped(tokenizer, template)


def wordpiece() -> Any:
    """BERT, MiniLM."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    roles = {"pad_token": "[PAD]", "unk_token": "[UNK]", "eos_token": None, "bos_token": None}
    return _wrapped(tokenizer, **roles, cls_token="[CLS]", sep_token="[SEP]")  # noqa: S106


def unigram() -> Any:
    """T5, XLM-R: SentencePiece's unigram model, a closing token."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)  # noqa: S106
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return _wrapped(tokenizer)


DECODERS: dict[str, Variant] = {
    "byte-level": Variant(byte_level),
    "no-pad": Variant(lambda: byte_level(pad_token=None)),
    "no-eos": Variant(lambda: byte_level(eos_token=None)),
    "no-bos": Variant(lambda: byte_level(bos_token=None)),
    "chat": Variant(lambda: byte_level(CHAT)),
    "system-refused": Variant(lambda: byte_level(REFUSES_SYSTEM), system=False),
    "system-lost": Variant(lambda: byte_level(KEEPS_TWO_ROLES), system=False),
    "thinking": Variant(lambda: byte_level(THINKS)),
    "thinking-always": Variant(lambda: byte_level(THINKS_ALWAYS)),
    "channels": Variant(lambda: byte_level(CHANNELS)),
    "closing": Variant(closing),
    "closing-chat": Variant(lambda: closing(BEGINS)),
    "dated": Variant(lambda: byte_level(DATED)),
    "metaspace-first": Variant(lambda: metaspace("first")),
    "metaspace-always": Variant(lambda: metaspace("always")),
    "metaspace-chat": Variant(lambda: metaspace("first", CHAT)),
    "metaspace-instruct": Variant(lambda: metaspace("always", INSTRUCTS), system=False),
    "normalizer": Variant(prepended),
    "normalizer-instruct": Variant(lambda: prepended(INSTRUCTS), system=False),
    "control-token-with-white-space": Variant(skipping),
}
ENCODERS: dict[str, Variant] = {"wordpiece": Variant(wordpiece), "unigram": Variant(unigram)}


@cache
def tokenizer_of(name: str) -> tuple[Any, bool]:
    """Returns a variant's tokenizer, and whether its template knows the system's turn."""
    variant = (DECODERS | ENCODERS)[name]
    return variant.make(), variant.system
