"""How an encoder's tokens become one sentence vector: as the files of sentence-transformers in its folder say.

Vectors are always scaled to length one, so a Normalize module changes nothing, and the mean over the root of the
length is the mean.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from peftu.base.files import read_json, read_object
from peftu.errors import PeftuError

Pool = Literal["mean", "cls", "max"]

MODULES = "modules.json"
_NORMAL = ["Transformer", "Pooling", "Normalize"]
_POOLING = "1_Pooling"  # its usual folder, where there is no list of modules
_MODES: dict[str, Pool] = {
    "cls": "cls",
    "cls_token": "cls",
    "mean": "mean",
    "mean_tokens": "mean",
    "mean_sqrt_len_tokens": "mean",
    "max": "max",
    "max_tokens": "max",
}
_LIMITS = tuple(f"sentence_{kind}_config.json" for kind in ("bert", "roberta", "distilbert", "xlm-roberta"))
_PROMPTS = "config_sentence_transformers.json"
_OTHER = "use a base with cls, mean or max pooling alone"


@dataclass(frozen=True)
class SentenceConfig:
    """How a text becomes a sentence vector.

    Attributes:
        pool: what is made of the tokens' states: their mean, the first one, or the largest of each number.
        max_tokens: tokens read at most; None: as many as the model can look at.
        lower: texts are put into lower case first.
        prompt: what stands in front of every text.
    """

    pool: Pool = "mean"
    max_tokens: int | None = None
    lower: bool = False
    prompt: str = ""

    def limit(self, tokens: int) -> int:
        """Returns how many tokens are read where this many are asked for."""
        return tokens if self.max_tokens is None else min(tokens, self.max_tokens)


def pooling_folder(folder: Path) -> str | None:
    """Returns the name of the folder in a base's folder that says how its tokens are pooled; None: nothing says it.

    Raises:
        PeftuError: the base's vectors are made by modules that peftu does not compute.
    """
    path = folder / MODULES
    if not path.exists():
        return _POOLING if (folder / _POOLING / "config.json").exists() else None
    modules = read_json(path)
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise PeftuError(f"base: {path} is not a list of modules — get the folder again")
    kinds = [str(module.get("type")).rpartition(".")[2] for module in modules]
    if kinds not in (_NORMAL[:-1], _NORMAL):
        raise PeftuError(
            f"base: {path} asks for {' + '.join(kinds) or 'nothing'}, which peftu does not make — {_OTHER}"
        )
    model, place = str(modules[0].get("path", "")), str(modules[1].get("path"))
    if model or not re.fullmatch(r"\w[\w-]*", place):
        raise PeftuError(f"base: {path} has its modules in '{model}' and '{place}' — put the model beside {MODULES}")
    return place


def read_sentence_config(folder: Path) -> SentenceConfig:
    """Returns how the sentence vectors of an encoder in a folder are made; means where nothing says otherwise.

    Raises:
        PeftuError: they are made in a way that peftu does not know, or a file is not whole.
    """
    place = pooling_folder(folder)
    if place is None:
        return SentenceConfig()
    path = folder / place / "config.json"
    pooling = read_object(path)
    limits = next((folder / name for name in _LIMITS if (folder / name).exists()), None)
    max_tokens, lower = _limits(limits) if limits is not None else (None, False)
    prompt = _prompt(folder / _PROMPTS, normal=_normal(folder)) if (folder / _PROMPTS).exists() else ""
    if prompt and pooling.get("include_prompt", True) is not True:
        raise PeftuError(f"base: {path} leaves the prompt '{prompt}' out of the vector, peftu does not — {_OTHER}")
    return SentenceConfig(_pool(path, pooling), max_tokens, lower, prompt)


def _normal(folder: Path) -> bool:
    path = folder / MODULES
    return path.exists() and len(read_json(path)) == len(_NORMAL)


def _pool(path: Path, pooling: dict[str, Any]) -> Pool:
    named = pooling.get("pooling_mode")
    modes = [named] if isinstance(named, str) else list(named) if isinstance(named, Sequence) else []
    modes = [*map(str, modes)] + [
        key.removeprefix("pooling_mode_") for key, on in pooling.items() if "pooling_mode_" in key and on
    ]
    if len(modes) != 1 or modes[0] not in _MODES:
        raise PeftuError(f"base: {path} asks for pooling '{' + '.join(modes) or 'none'}' — {_OTHER}")
    return _MODES[modes[0]]


def _limits(path: Path) -> tuple[int | None, bool]:
    limits = read_object(path)
    tokens, lower = limits.get("max_seq_length"), limits.get("do_lower_case", False)
    if not (tokens is None or (type(tokens) is int and tokens > 2)) or not isinstance(lower, bool):
        raise PeftuError(f"base: {path}: max_seq_length {tokens}, do_lower_case {lower} make no sense — correct them")
    return tokens, lower


def _prompt(path: Path, *, normal: bool) -> str:
    about = read_object(path)
    alike, name = about.get("similarity_fn_name"), about.get("default_prompt_name")
    if alike not in (None, "cosine") and not normal:
        raise PeftuError(f"base: {path} compares vectors by '{alike}', peftu by their cosine — use another base")
    if name is None:
        return ""
    prompts = about.get("prompts")
    if not isinstance(name, str) or not isinstance(prompts, dict) or not isinstance(prompts.get(name), str):
        raise PeftuError(f"base: {path} has no prompt of its default name '{name}' — correct it")
    return str(prompts[name])
