"""Which base it is: a digest of all that decides its numbers, whatever number type it is read in.

Modules only fit the base that they were trained on. Of a base that stands in a folder, the weights and the config are
those of the files, not of the model in memory: rounding them to another number type leaves the digest as it is, and
so does a release of transformers that knows more settings.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from peftu.base.pooling import SentenceConfig
from peftu.base.reader import backend_state

FORMER = "sha256:"  # begins fingerprints of earlier releases, which the number type was part of
_PREFIX = "v2:sha256:"
# What a config says of the file it stands in, of who reads it, or of how fast: nothing that a number depends on.
_BOOKKEEPING = frozenset(
    {"_name_or_path", "architectures", "auto_map", "dtype", "torch_dtype", "transformers_version", "use_cache"}
)


def fingerprint(tensors: Iterable[tuple[str, Tensor]], settings: str) -> str:
    """Returns 'v2:sha256:…' over what decides a base's numbers.

    Args:
        tensors: the weights with their names, in the order of the names.
        settings: all that is not weights, see `settings_of`.
    """
    digest = hashlib.sha256(settings.encode())
    for name, tensor in tensors:
        digest.update(f"\0{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(_bytes(tensor))
    return _PREFIX + digest.hexdigest()


def settings_of(config: Mapping[str, Any], tokenizer: Any, stops: Any, sentence: SentenceConfig | None) -> str:
    """Returns all that decides a base's numbers beside its weights, as JSON.

    Args:
        config: the model's settings, as published.
        tokenizer: how texts are cut, special tokens and chat template included.
        stops: the token or tokens that end what the base writes, if any.
        sentence: how an encoder makes a sentence vector; None for other bases.
    """
    settings = {name: value for name, value in config.items() if name not in _BOOKKEEPING}
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    ends = sorted(stops) if isinstance(stops, list | tuple) else [stops]
    about = [
        settings,
        tokenizer_state(tokenizer),
        special,
        str(getattr(tokenizer, "chat_template", None)),
        ends,
        vars(sentence) if sentence is not None else None,
    ]
    return json.dumps(about, sort_keys=True, default=str)


def former_fingerprint(model: nn.Module, dtype: torch.dtype, tokenizer: Any, sentence: SentenceConfig | None) -> str:
    """Returns the fingerprint as earlier releases made it, for modules that they stored.

    They took every encoder's vectors to be means of whole texts. Where that is not so, it fits nothing they stored.
    """
    digest = hashlib.sha256(str(dtype).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    digest.update(tokenizer_state(tokenizer).encode())
    digest.update(str(getattr(tokenizer, "chat_template", "")).encode())
    if sentence is not None and sentence != SentenceConfig():
        digest.update(repr(sentence).encode())
    return FORMER + digest.hexdigest()


def tensor_names(files: Iterable[Path]) -> dict[str, Path]:
    """Returns the tensors of safetensors files: name -> the file that it is in.

    Raises:
        SafetensorError: a file is not whole.
    """
    places: dict[str, Path] = {}
    for path in files:
        with safe_open(path, framework="pt") as opened:
            places |= dict.fromkeys(opened.keys(), path)
    return places


def tensors_in_files(files: Iterable[Path]) -> Iterator[tuple[str, Tensor]]:
    """Yields each tensor's name and numbers as they stand in safetensors files, in the order of the names.

    Raises:
        SafetensorError: a file is not whole.
    """
    with ExitStack() as stack:
        places = tensor_names(files)
        opened = {path: stack.enter_context(safe_open(path, framework="pt")) for path in set(places.values())}
        for name in sorted(places):
            yield name, opened[places[name]].get_tensor(name)


def tensors_in_memory(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Yields each tensor's name and numbers as `save_pretrained` would write them: a tied one under one name."""
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    state = model.state_dict()
    for name in sorted(state):
        source = tied.get(name)
        if source is None or source not in state or state[source].data_ptr() != state[name].data_ptr():
            yield name, state[name]


def tokenizer_state(tokenizer: Any) -> str:
    """Returns all that decides how a text is cut into tokens, as JSON."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return json.dumps(tokenizer.get_vocab() if backend is None else backend_state(backend), sort_keys=True)


def _bytes(tensor: Tensor) -> Any:
    """Returns a tensor's numbers as bytes, without a copy where it is on the CPU."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
