"""How each kind of module stands in the files of the `peft` library: config keys, tensor names, and the numbers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peftu.bank import Column
from peftu.base.model import FrozenBase
from peftu.base.prompt import Prompt
from peftu.base.reading import invocation
from peftu.base.region import Region
from peftu.errors import PeftuError
from peftu.methods.ia3 import Ia3
from peftu.methods.lora import Lora
from peftu.methods.prefix_tuning import PrefixTuning
from peftu.methods.prompt_tuning import PromptTuning
from peftu.outside import quoted
from peftu.peft_config import (
    IA3,
    LORA,
    PREFIX_TUNING,
    PROMPT_TUNING,
    Keys,
    Settings,
    check_targets,
    layer_of,
    whole_number,
)
from peftu.peft_places import may_recur

PREFIX = "base_model.model."  # before a submodule's name, in peft's files
PROMPT = "prompt_embeddings"
CONFIG = "adapter_config.json"
TASK_TYPES = {"decoder": "CAUSAL_LM", "encoder_decoder": "SEQ_2_SEQ_LM", "encoder": "FEATURE_EXTRACTION"}
LARGEST = 65504.0  # in float16, which adapters are served in; no trained module comes near it
DTYPES = (torch.float32, torch.float16, torch.bfloat16)

Views = Mapping[Column, Tensor]


@dataclass(frozen=True)
class Made:
    """What a module was made with.

    Attributes:
        method: with its knobs.
        base: the base it acts on.
        prompt: what the base reads, and how it answers.
        region: where it acts.
    """

    method: Any
    base: FrozenBase
    prompt: Prompt
    region: Region

    @cached_property
    def invocation(self) -> list[int]:
        """Returns a decoder's tokens between text and answer that lie in the region."""
        return invocation(self.base, self.prompt, self.region)

    @property
    def answer_only(self) -> bool:
        """Returns whether it acts on some positions of a sequence only."""
        return self.region.answering and self.base.family.kind == "decoder"

    @property
    def task_type(self) -> str:
        """Returns what peft calls what the base is for."""
        return TASK_TYPES[self.base.family.kind]

    def check_task(self, path: Path, config: Settings) -> None:
        """Checks that peft takes the base for what it is; else it leaves virtual tokens and invocations aside.

        Raises:
            PeftuError: it does not.
        """
        if (task := config.get("task_type")) != self.task_type:
            raise PeftuError(f"{path}: task_type is {quoted(task)}, not {self.task_type} — train it as that")

    def everywhere(self, what: str) -> None:
        """Checks that it acts on all positions of all layers.

        Raises:
            PeftuError: it does not, and peft's modules of this kind do.
        """
        if self.region.answering or self.region.depth < self.base.family.layers:
            raise PeftuError(f"peft's {what} acts in every layer on all positions — train it with span=all")


class Tensors:
    """The tensors of a file, taken out one by one."""

    def __init__(self, path: Path, tensors: dict[str, Tensor]) -> None:
        self.path, self.left = path, tensors

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Returns a tensor in float32.

        Raises:
            PeftuError: it is not there, has another shape, or holds what no trained module does: whole or double
                numbers, which float32 would change; numbers that are not finite, or too large.
        """
        if name not in self.left:
            raise PeftuError(f"{self.path}: lacks {name} — its targets or layers are others than this run's")
        tensor = self.left.pop(name)
        if tensor.shape != shape:
            raise PeftuError(f"{self.path}: {name} is {tuple(tensor.shape)}, not {shape} — another rank, width or base")
        if tensor.dtype not in DTYPES:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise PeftuError(f"{self.path}: {name} holds {kind} — save it as float32, float16 or bfloat16")
        if not sound(tensor.float()):
            raise PeftuError(f"{self.path}: {name} has numbers that are not finite or beyond {LARGEST:g} — train again")
        return tensor.float()

    def empty(self) -> None:
        """Checks that nothing is left.

        Raises:
            PeftuError: there is a tensor that nothing here has a place for.
        """
        if self.left:
            more = f"({len(self.left)} such tensors)"
            raise PeftuError(f"{self.path}: has {quoted(min(self.left))}, where this run's modules do not act {more}")


def sound(numbers: Tensor) -> bool:
    """Returns whether all numbers are finite and of a size that a trained module may have."""
    return bool((numbers.abs() <= LARGEST).all())


class Format(ABC):
    """One kind of module: ``kind`` is its ``peft_type``. A head's columns are not its business."""

    kind: ClassVar[str]
    keys: ClassVar[Keys]

    @abstractmethod
    def fits(self, made: Made) -> None:
        """Checks that peft has such a module in this region.

        Raises:
            PeftuError: it has none.
        """

    @abstractmethod
    def config(self, made: Made, columns: Sequence[Column]) -> Settings:
        """Returns the config's own keys.

        Raises:
            PeftuError: peft would read something else.
        """

    @abstractmethod
    def write(self, made: Made, views: Views) -> dict[str, Tensor]:
        """Returns peft's tensors by name."""

    @abstractmethod
    def read(self, made: Made, columns: Sequence[Column], stored: Tensors, config: Settings) -> dict[Column, Tensor]:
        """Returns the columns' tensors; the config's keys are known to be among `keys`.

        Raises:
            PeftuError: a tensor is missing or not as it should be, or the config says something else of it.
        """


class LoraFormat(Format):
    """LoRA; on an answer span of a decoder, activated LoRA."""

    kind = "LORA"
    keys = LORA

    def fits(self, made: Made) -> None:
        """Checks that peft finds the place where it begins to act, which it looks for by its last tokens."""
        if made.answer_only and may_recur(made.base, made.prompt, made.invocation):
            whole = invocation(made.base, made.prompt, Region(made.region.depth, "answer"))
            mend = "span=all" if may_recur(made.base, made.prompt, whole) else "span=answer or span=all"
            raise PeftuError(
                f"peft begins where the tokens {made.invocation} stand last, and an answer may hold them "
                f"— train it with {mend}"
            )

    def config(self, made: Made, columns: Sequence[Column]) -> Settings:
        """Returns rank, scaling and targets."""
        sites = names(columns)
        return {
            "r": made.method.rank,
            "lora_alpha": made.method.alpha,
            "use_rslora": made.method.rslora,
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": turned(made.base.family.model, sites),
            **({"alora_invocation_tokens": list(made.invocation)} if made.answer_only else {}),
            **targets(made.base, sites),
        }

    def write(self, made: Made, views: Views) -> dict[str, Tensor]:
        """Returns both matrices of each site."""
        return {self._name(column): tensor for column, tensor in views.items()}

    def read(self, made: Made, columns: Sequence[Column], stored: Tensors, config: Settings) -> dict[Column, Tensor]:
        """Returns both matrices; of another alpha they are rescaled, since only alpha times them counts."""
        path = stored.path.parent / CONFIG
        check_targets(path, config, names(columns))
        self._check_place(made, path, config)
        factor = {"A": 1.0, "B": self._scale(made, path, config) / made.method.scale}
        tensors = {column: factor[column.name] * stored.take(self._name(column), column.shape) for column in columns}
        if not all(map(sound, tensors.values())):
            raise PeftuError(f"{path}: lora_alpha makes numbers beyond {LARGEST:g} of its tensors — train it again")
        return tensors

    def _scale(self, made: Made, path: Path, config: Settings) -> float:
        """Returns what peft multiplies B A x by.

        Raises:
            PeftuError: rank or alpha make no sense, or the rank is not that of the run's modules.
        """
        rank, rooted = config.get("r"), config.get("use_rslora", False)
        alpha = config.get("lora_alpha", rank)
        if not whole_number(rank) or rank < 1:
            raise PeftuError(f"{path}: r is {quoted(rank)}, not a rank — export it again")
        if rank != made.method.rank:
            raise PeftuError(f"{path}: r is {quoted(rank)}, this run's modules have rank {made.method.rank}")
        if not (whole_number(alpha) or isinstance(alpha, float)) or not 0 < alpha <= LARGEST:
            raise PeftuError(
                f"{path}: lora_alpha is {quoted(alpha)}, not a number above 0 up to {LARGEST:g} — export it again"
            )
        if not isinstance(rooted, bool):
            raise PeftuError(f"{path}: use_rslora is {quoted(rooted)}, not true or false — export it again")
        return float(alpha / (rank**0.5 if rooted else rank))

    def _check_place(self, made: Made, path: Path, config: Settings) -> None:
        """Checks that it begins to act where the run's modules do.

        Raises:
            PeftuError: it does not.
        """
        begins = config.get("alora_invocation_tokens") or []
        if not isinstance(begins, list) or not all(map(whole_number, begins)):
            raise PeftuError(f"{path}: alora_invocation_tokens is {quoted(begins)}, not tokens — export it again")
        if made.answer_only != bool(begins):
            ours, theirs = ("the answer only", "all positions")[:: 1 if made.answer_only else -1]
            raise PeftuError(f"{path}: acts on {theirs}, this run's modules on {ours} — choose another run")
        if begins:
            made.check_task(path, config)
        if begins and begins != made.invocation:
            ours = f"this run's modules from {made.invocation}"
            raise PeftuError(f"{path}: acts from the tokens {quoted(begins)} on, {ours} — choose another run")

    def _name(self, column: Column) -> str:
        return f"{PREFIX}{column.site.name}.lora_{column.name}.weight"


class Ia3Format(Format):
    """(IA)³: factors here are changes from one."""

    kind = "IA3"
    keys = IA3

    def fits(self, made: Made) -> None:
        """Checks that it acts on all positions."""
        if made.answer_only:
            raise PeftuError("peft's IA3 acts on all positions, this run's modules on the answer only — use span=all")

    def config(self, made: Made, columns: Sequence[Column]) -> Settings:
        """Returns the targets by whole paths: peft has no ``layers_to_transform`` here."""
        sites = names(columns)
        return {
            "target_modules": sites,
            "feedforward_modules": names([column for column in columns if column.name == "in"]),
            "fan_in_fan_out": turned(made.base.family.model, sites),
        }

    def write(self, made: Made, views: Views) -> dict[str, Tensor]:
        """Returns a column of factors for outputs, a row for inputs."""
        return {self._name(column): (1 + tensor).view(self._shape(column)) for column, tensor in views.items()}

    def read(self, made: Made, columns: Sequence[Column], stored: Tensors, config: Settings) -> dict[Column, Tensor]:
        """Returns the factors' changes from one."""
        check_targets(stored.path.parent / CONFIG, config, names(columns))
        return {c: stored.take(self._name(c), self._shape(c)).view(c.shape) - 1 for c in columns}

    def _name(self, column: Column) -> str:
        return f"{PREFIX}{column.site.name}.ia3_l"

    def _shape(self, column: Column) -> tuple[int, ...]:
        return (*column.shape, 1) if column.name == "out" else (1, *column.shape)


class PromptFormat(Format):
    """Prompt tuning: the states in front of the whole text."""

    kind = "PROMPT_TUNING"
    keys = PROMPT_TUNING

    def fits(self, made: Made) -> None:
        """Checks that the states stand in front of everything."""
        made.everywhere("prompt tuning")

    def config(self, made: Made, columns: Sequence[Column]) -> Settings:
        """Returns the number of virtual tokens."""
        return {"num_virtual_tokens": made.method.tokens, "num_transformer_submodules": 1}

    def write(self, made: Made, views: Views) -> dict[str, Tensor]:
        """Returns the states [tokens, d]."""
        switched_on = _switched_on(views)
        return {PROMPT: next(tensor for column, tensor in switched_on.items() if column.name == "states")}

    def read(self, made: Made, columns: Sequence[Column], stored: Tensors, config: Settings) -> dict[Column, Tensor]:
        """Returns the states, switched on."""
        _check_tokens(made, stored.path.parent / CONFIG, config)
        return {c: torch.ones(()) if c.name == "switch" else stored.take(PROMPT, c.shape) for c in columns}


class PrefixFormat(Format):
    """Prefix tuning: one matrix [tokens, layers × 2 × width] holds every layer's keys and values."""

    kind = "PREFIX_TUNING"
    keys = PREFIX_TUNING

    def fits(self, made: Made) -> None:
        """Checks that every layer has a prefix, in front of everything that it reads."""
        if made.region.depth < made.base.family.layers or made.answer_only:
            made.everywhere("prefix tuning")

    def config(self, made: Made, columns: Sequence[Column]) -> Settings:
        """Returns the number of virtual tokens."""
        layers = sum(column.name == "prefix" for column in columns)
        if len(set(_order(made.base, layers))) < layers:
            raise PeftuError(
                f"export: with {layers} layers peft reads half of this base's prefixes — nothing is written"
            )
        return {"num_virtual_tokens": made.method.tokens, "prefix_projection": False}

    def write(self, made: Made, views: Views) -> dict[str, Tensor]:
        """Returns the matrix, layers in peft's order."""
        prefixes = [tensor for column, tensor in _switched_on(views).items() if column.name == "prefix"]
        order = _order(made.base, len(prefixes))
        stacked = torch.stack([prefixes[order.index(pair)] for pair in range(len(prefixes))])
        return {PROMPT: stacked.permute(2, 0, 1, 3).flatten(1)}

    def read(self, made: Made, columns: Sequence[Column], stored: Tensors, config: Settings) -> dict[Column, Tensor]:
        """Returns each layer's keys and values, switched on."""
        path, stacks = stored.path.parent / CONFIG, 2 if made.base.family.kind == "encoder_decoder" else 1
        _check_tokens(made, path, config)
        if (submodules := config.get("num_transformer_submodules")) not in (None, stacks):
            raise PeftuError(
                f"{path}: num_transformer_submodules is {quoted(submodules)}, not {stacks} — train it with that"
            )
        prefixes = [column for column in columns if column.name == "prefix"]
        both, tokens, width = prefixes[0].shape
        matrix = stored.take(PROMPT, (tokens, len(prefixes) * both * width))
        layers = matrix.view(tokens, len(prefixes), both, width).permute(1, 2, 0, 3)
        order = _order(made.base, len(prefixes))
        tensors = {column: layers[order[place]] for place, column in enumerate(prefixes)}
        return {column: tensors.get(column, torch.ones(())) for column in columns}


FORMATS: Mapping[type[Any], Format] = {
    Lora: LoraFormat(),
    Ia3: Ia3Format(),
    PromptTuning: PromptFormat(),
    PrefixTuning: PrefixFormat(),
}


def format_of(method: object) -> Format:
    """Returns how modules of a method are written for peft.

    Raises:
        PeftuError: peft has no such modules; the message names those that it has.
    """
    for kind, form in FORMATS.items():
        if isinstance(method, kind) and not hasattr(method, "compose"):  # else it is nothing without what all share
            return form
    known = ", ".join(sorted(kind.card.name for kind in FORMATS))
    name = getattr(method, "card").name  # noqa: B009  (any method has a card)
    raise PeftuError(f"method {name}: peft has no such module — it loads those of {known}")


# --- names -----------------------------------------------------------------------------------------------------------


def names(columns: Sequence[Column]) -> list[str]:
    """Returns the submodules that the columns belong to, each once, in order."""
    return list(dict.fromkeys(column.site.name for column in columns))


def targets(base: FrozenBase, sites: Sequence[str]) -> Settings:
    """Returns peft's ``target_modules`` for these submodules, and the layers where it needs them.

    By last names, which every loader reads, where last names and layers select these submodules and no others; by
    whole paths otherwise.
    """
    suffixes = sorted({site.rpartition(".")[2] for site in sites})
    maps = [name for name, module in base.family.model.named_modules() if _is_map(module)]
    alike = [name for name in maps if name.rpartition(".")[2] in suffixes]
    if set(alike) == set(sites):
        return {"target_modules": suffixes}
    layers = sorted({layer for site in sites if (layer := layer_of(site)) is not None})
    pattern = {_stack(site) for site in sites}
    chosen = {name for name in alike if layer_of(name) in layers and _stack(name) in pattern}
    if base.family.kind == "encoder_decoder" or len(pattern) > 1 or chosen != set(sites):
        return {"target_modules": list(sites)}
    return {"target_modules": suffixes, "layers_to_transform": layers, "layers_pattern": pattern.pop()}


def turned(model: nn.Module, sites: Sequence[str]) -> bool:
    """Returns whether the maps keep their weights as [in, out], as GPT-2 does."""
    return not all(isinstance(model.get_submodule(site), nn.Linear) for site in sites)


def _is_map(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 2 and not isinstance(module, nn.Embedding)


def _stack(site: str) -> str:
    parts = site.split(".")
    place = next((number for number, part in enumerate(parts) if part.isdigit()), 0)
    return parts[place - 1] if place else ""


def _check_tokens(made: Made, path: Path, config: Settings) -> None:
    made.check_task(path, config)
    tokens = config.get("num_virtual_tokens")
    if tokens != made.method.tokens:
        raise PeftuError(
            f"{path}: num_virtual_tokens is {quoted(tokens)}, this run's modules have {made.method.tokens} "
            "— choose another run"
        )


def _switched_on(views: Views) -> Views:
    """Returns the views of a module that is on.

    Raises:
        PeftuError: training kept the base as it is, so there is nothing to give away.
    """
    if not all(bool(tensor) for column, tensor in views.items() if column.name == "switch"):
        raise PeftuError(
            "export: this user's module is switched off (training kept the base) — there is nothing to write"
        )
    return views


def _order(base: FrozenBase, layers: int) -> list[int]:
    """Returns which of peft's pairs of keys and values each layer reads.

    peft hands a T5 layer i the pairs 2i and 2i + 1 of all pairs written twice, and T5 reads the first.
    """
    twice = base.family.kind == "encoder_decoder"
    return [2 * layer % layers if twice else layer for layer in range(layers)]
