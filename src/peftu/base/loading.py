"""A base's folder read as model and tokenizer: no code out of it runs, and what cannot be right is one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import nn
from transformers import AutoConfig, AutoTokenizer

from peftu.base.families.family import Family, forced_first, written_stops
from peftu.base.families.known import family_class
from peftu.base.files import LAYER, read_json, read_object, weight_files
from peftu.base.hardware import DTYPES
from peftu.base.identity import settings_of, tensor_names
from peftu.base.known_files import fingerprint_of_files
from peftu.base.pooling import SentenceConfig, read_sentence_config
from peftu.base.quantised import loading_options, ready_quantised
from peftu.config import HardwareSpec
from peftu.errors import PeftuError
from peftu.memory import out_of_memory

_TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.txt",
    "vocab.json",
)
_READ = (  # by transformers, where they are there
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.json",
    "vocab.json",
    "model.safetensors.index.json",
)
_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
_OWN_SIZES = ("relative_attention_num_buckets", "relative_attention_max_distance")  # where a model has them
_STACKS = ("num_hidden_layers", "num_decoder_layers", "decoder_layers")
_FAULT = 160  # characters of another library's message that are passed on
_LEAST_WORDS = 0.5  # of an embedding's rows: fewer are another model's tokenizer; models pad by a few hundred


@dataclass(frozen=True)
class Loaded:
    """A base as its folder has it.

    Attributes:
        model: the hub model, where and in the dtype asked for.
        tokenizer: its tokenizer.
        sentence: how an encoder's vectors are made; None for other bases.
        fingerprint: of the base as published.
    """

    model: nn.Module
    tokenizer: Any
    sentence: SentenceConfig | None
    fingerprint: str


def check_vocabulary(model: nn.Module, tokenizer: Any, name: str) -> None:
    """Checks that every token has a row in a model's embedding.

    Raises:
        PeftuError: one has none.
    """
    rows, last = _rows(model), max(tokenizer.get_vocab().values(), default=-1)
    if last >= rows:
        raise PeftuError(
            f"base {name}: its tokenizer has token {last}, its embedding ends at {rows - 1} — pass the model's own"
        )


def read_folder(folder: Path, name: str, hardware: HardwareSpec) -> Loaded:
    """Returns the base in a folder.

    Args:
        folder: as `save_pretrained` writes it.
        name: what the user calls it.
        hardware: where the weights go and in which numbers; nothing is left 'auto'.

    Raises:
        PeftuError: a file is missing, not whole or at odds with another, or an architecture peftu does not know.
    """
    family = _checked(folder, name)
    options: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    with _one_line(name, "check the folder's config and tokenizer"):
        config = AutoConfig.from_pretrained(folder, **options)
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    files = weight_files(folder)
    with _one_line(name, "get the folder again"):
        tensors = len(tensor_names(files))
    _check_sizes(config, tensors, name)
    how: dict[str, Any] = {"dtype": DTYPES[hardware.dtype], "use_safetensors": True, "output_loading_info": True}
    with _one_line(name, "get the folder again"), _room(name, hardware):
        model, info = family.auto.from_pretrained(folder, **how, **loading_options(hardware), **options)
    _check_complete(info, name)
    _check_ids(model, name)
    words, rows = len(tokenizer), _rows(model)
    if words < _LEAST_WORDS * rows:
        mend = "put the files of the model's own tokenizer into the folder"
        raise PeftuError(f"base {name}: its tokenizer knows {words} tokens, its embedding has {rows} — {mend}")
    sentence = None if family.writers else read_sentence_config(folder)
    published = read_object(folder / "config.json") | forced_first(model)
    identity = fingerprint_of_files(files, settings_of(published, tokenizer, written_stops(model), sentence))
    if hardware.quantize == "none":
        with _room(name, hardware):
            model = model.to(hardware.device)
    else:
        ready_quantised(model, hardware, name)
    return Loaded(cast(nn.Module, model), tokenizer, sentence, identity)


def _checked(folder: Path, name: str) -> type[Family]:
    """Returns the family of the base in a folder, before any of it goes to another library.

    Raises:
        PeftuError: the folder holds no base that peftu reads.
    """
    config = read_object(folder / "config.json")
    for file in _READ:
        if (folder / file).exists():
            read_json(folder / file)
    family = family_class(config.get("model_type"), name)
    if quantised := config.get("quantization_config"):
        method = quantised.get("quant_method", "unknown") if isinstance(quantised, dict) else "unknown"
        raise PeftuError(f"base {name}: its weights are quantised ({method}) — use the model that is not")
    if (folder / "adapter_config.json").exists():
        raise PeftuError(f"base {name}: holds an adapter beside the model — merge it, or take its files out")
    if not any((folder / file).is_file() for file in _TOKENIZERS):
        raise PeftuError(f"base {name}: has no tokenizer — put tokenizer.json, or its vocabulary, into the folder")
    named = config.get("architectures") or []
    if not isinstance(named, list):
        raise PeftuError(f"base {name}: config.json says architectures {named!r} — get the folder again")
    architectures = " ".join(map(str, named))
    if family.writers and architectures and not any(part in architectures for part in family.writers):
        raise PeftuError(f"base {name}: {architectures} has no output matrix — use the model that writes text")
    if not family.writers and config.get("is_decoder"):
        raise PeftuError(f"base {name}: a {config['model_type']} that reads from left to right — use it as an encoder")
    return family


def _check_sizes(config: Any, tensors: int, name: str) -> None:
    for field in (*_SIZES, *(field for field in _OWN_SIZES if hasattr(config, field))):
        size = getattr(config, field, None)
        if type(size) is not int or size < 1:
            raise PeftuError(f"base {name}: config.json says {field} {size!r} — get the folder again")
    for field in _STACKS:  # as many layers would be made, before any of their weights were missed
        layers = getattr(config, field, None)
        if layers is not None and (type(layers) is not int or layers > tensors):
            why = f"config.json says {field} {layers!r}, its weights are {tensors} tensors"
            raise PeftuError(f"base {name}: {why} — get the folder again")


def _check_ids(model: Any, name: str) -> None:
    """Checks the tokens that start and end what a model writes."""
    start, ends = getattr(model.config, "decoder_start_token_id", None), written_stops(model)
    if model.config.is_encoder_decoder and not (type(start) is int and 0 <= start < _rows(model)):
        raise PeftuError(f"base {name}: config.json says decoder_start_token_id {start!r} — get the folder again")
    if not (ends is None or all(type(end) is int for end in (ends if isinstance(ends, list) else [ends]))):
        raise PeftuError(f"base {name}: generation_config.json says eos_token_id {ends!r} — get the folder again")
    for field, token in forced_first(model).items():
        if not (type(token) is int and 0 <= token < _rows(model)):
            raise PeftuError(f"base {name}: generation_config.json says {field} {token!r} — get the folder again")


def _check_complete(info: Any, name: str) -> None:
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
    if missing:  # the hub would fill them at random
        raise PeftuError(f"base {name}: its weights lack {missing[0]} ({len(missing)} in all) — get the folder again")
    beyond = sorted(key for key in info["unexpected_keys"] if LAYER.search(key))
    if beyond:  # the hub would leave them out
        raise PeftuError(f"base {name}: its config has no {beyond[0]} ({len(beyond)} in all) — get the folder again")


def _rows(model: nn.Module) -> int:
    return int(cast(Any, model).get_input_embeddings().weight.shape[0])


@contextmanager
def _room(name: str, hardware: HardwareSpec) -> Iterator[None]:
    """Turns memory that ran out over a base's weights into one line: nothing can be halved."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        whole = hardware.quantize == "none"
        mend = "pass --quantize nf4, which takes a quarter of bfloat16" if whole else "use a smaller base"
        raise PeftuError(
            f"base {name}: too large for the memory of {hardware.device} ({hardware.dtype}) — {mend}"
        ) from None


@contextmanager
def _one_line(name: str, mend: str) -> Iterator[None]:
    """Turns what another library raises over a folder's files into one line; which errors those are differs by file."""
    try:
        yield
    except (PeftuError, MemoryError):
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        kind = "" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: "
        raise PeftuError(f"base {name}: {kind}{lines[0][:_FAULT]} — {mend}") from error
