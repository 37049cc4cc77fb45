"""What ``adapter_config.json`` may say: keys without influence on the numbers, keys that are checked, and no others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from peftu.errors import PeftuError
from peftu.outside import quoted

Settings = dict[str, Any]

# Of every kind. What was made on which base, and of which kind it is, is checked where the folder is opened.
_EVERYWHERE = frozenset(
    {
        *("peft_type", "base_model_name_or_path", "revision"),
        *("task_type", "auto_mapping", "peft_version", "inference_mode", "runtime_config"),
    }
)


@dataclass(frozen=True)
class Keys:
    """The keys of one kind of module, beside those of every kind; any other key must be off.

    Attributes:
        free: keys that may hold anything: without influence on a trained module's numbers, or checked elsewhere.
        only: keys that may hold these values, and none else.
        mends: what to do about a key with another value, where there is more to say than to leave it out.
    """

    free: frozenset[str]
    only: Mapping[str, tuple[object, ...]]
    mends: Mapping[str, str]

    def check(self, path: Path, config: Settings) -> None:
        """Checks that a config says nothing that modules here have no word for.

        Raises:
            PeftuError: it does; the message names the key.
        """
        for key, value in config.items():
            if key in self.free or key in _EVERYWHERE:
                continue
            if not (_among(value, self.only[key]) if key in self.only else _is_off(value)):
                mend = self.mends.get(key, "modules here have no such thing: train it without")
                raise PeftuError(f"{path}: {quoted(key)} is {quoted(value)} — {mend}")


def _among(value: object, values: tuple[object, ...]) -> bool:
    """Returns whether a value is among others; true is not 1 here."""
    return any(type(value) is type(other) and value == other for other in values)


def _is_off(value: object) -> bool:
    """Returns whether a key that nothing is known of is at rest; an empty object may be a part with its defaults."""
    return value is None or value is False


_MERGED = "train it without, or merge it into plain LoRA first"
# `path_initial_model_for_weight_conversion` is how peft itself makes plain LoRA of these.
_CONVERTED = (
    "it changes the base's own weights: save it with path_initial_model_for_weight_conversion, or train without"
)
_ONE_RANK = "modules here have one rank and one alpha: train it with those"

LORA = Keys(
    # Scaling and places, which are checked; and what only training, merging or splitting over machines reads.
    free=frozenset(
        {
            *("r", "lora_alpha", "use_rslora", "alora_invocation_tokens"),
            *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
            *("lora_dropout", "fan_in_fan_out", "eva_config", "qalora_group_size", "megatron_core"),
        }
    ),
    only={
        # Starts that leave the base as it is; the others take out of its weights what A and B begin with.
        "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva", "mica"),
        "bias": ("none",),
        **dict.fromkeys(("rank_pattern", "alpha_pattern", "loftq_config"), ({}, None)),
        "modules_to_save": (None, []),
    },
    mends={
        "init_lora_weights": _CONVERTED,
        "rank_pattern": _ONE_RANK,
        "alpha_pattern": _ONE_RANK,
        "use_dora": _MERGED,
    },
)

IA3 = Keys(
    free=frozenset(
        {*("target_modules", "exclude_modules", "feedforward_modules"), *("fan_in_fan_out", "init_ia3_weights")}
    ),
    only={"modules_to_save": (None, [])},
    mends={},
)

# Of the base: tensors of other sizes are refused by their shapes.
_SIZES = ("num_virtual_tokens", "token_dim", "num_attention_heads", "num_layers")

PROMPT_TUNING = Keys(
    free=frozenset(
        {*_SIZES, "prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs"}
    ),
    only={"num_transformer_submodules": (None, 1)},
    mends={"num_transformer_submodules": "virtual tokens here stand in one stack: train it with 1"},
)

# What a projection made is what peft saves, so that it and its size are no part of a saved module.
PREFIX_TUNING = Keys(
    free=frozenset({*_SIZES, "num_transformer_submodules", "init_weights", "prefix_projection", "encoder_hidden_size"}),
    only={},
    mends={},
)


def whole_number(value: object) -> TypeGuard[int]:
    """Returns whether a value is a whole number; True is none."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_targets(path: Path, config: Settings, sites: Sequence[str]) -> None:
    """Checks that a config names the submodules whose tensors are read; peft would leave out any other.

    A pattern is not run: an expression out of a file may take for ever. Without targets peft has some of its own.

    Args:
        path: of the config.
        config: what it says.
        sites: names of the submodules.

    Raises:
        PeftuError: peft would not load the tensors of one of them.
    """
    wanted, left_out = config.get("target_modules"), config.get("exclude_modules")
    layers = config.get("layers_to_transform")
    for site in sites:
        layer = layer_of(site)
        missed = isinstance(wanted, list) and not _names(wanted, site)
        excluded = isinstance(left_out, list) and _names(left_out, site)
        elsewhere = layers not in (None, []) and layer not in (layers if isinstance(layers, list) else [layers])
        known = isinstance(wanted, str | list) and isinstance(left_out, str | list | None)
        if missed or excluded or elsewhere or not known:
            raise PeftuError(f"{path}: does not target {site}, where this run's modules act — choose another run")


def layer_of(site: str) -> int | None:
    """Returns the number of the layer that a submodule is in, None outside the layers."""
    return next((int(part) for part in site.split(".") if part.isdigit()), None)


def _names(entries: Sequence[object], site: str) -> bool:
    return any(isinstance(entry, str) and (site == entry or site.endswith(f".{entry}")) for entry in entries)
