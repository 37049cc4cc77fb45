"""One user's module as a folder that the `peft` library loads, and back.

A folder holds ``adapter_config.json`` and ``adapter_model.safetensors`` as peft writes them, and ``peftu.json`` with
what peft has no word for: prompt, labels, region and the base's fingerprint. A head of our own (encoders have one)
stands in ``peftu_head.safetensors``, since peft has no label head that sits on a sentence vector.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from peftu.bank import Column, Layout
from peftu.base.cards import bases
from peftu.base.model import FrozenBase
from peftu.base.region import Region
from peftu.data.sources import writing_to
from peftu.errors import PeftuError
from peftu.methods.ia3 import Ia3
from peftu.methods.lora import Lora
from peftu.results import write_atomic

CONFIG, WEIGHTS, OWN, HEAD = "adapter_config.json", "adapter_model.safetensors", "peftu.json", "peftu_head.safetensors"
PREFIX = "base_model.model."  # before a submodule's name, in peft's files
TASK_TYPES = {"decoder": "CAUSAL_LM", "encoder_decoder": "SEQ_2_SEQ_LM", "encoder": "FEATURE_EXTRACTION"}

Settings = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Where a column's tensor stands in peft's file, and how its numbers become peft's and come back."""

    name: str
    there: Callable[[Tensor], Tensor] = lambda tensor: tensor
    back: Callable[[Tensor], Tensor] = lambda tensor: tensor


@dataclass(frozen=True)
class Format:
    """How one kind of module is written for peft.

    Attributes:
        kind: ``peft_type`` in the config.
        config: (method, base, region, columns, invocation) -> the config's own keys.
        place: (method, column, config) -> where the column stands; the config is the one being read or written.
    """

    kind: str
    config: Callable[[Any, FrozenBase, Region, Sequence[Column], Sequence[int]], Settings]
    place: Callable[[Any, Column, Settings], Place]


def _lora_config(
    method: Lora, base: FrozenBase, region: Region, columns: Sequence[Column], invocation: Sequence[int]
) -> Settings:
    sites = _names(columns)
    answer_only = region.span == "answer" and base.family.kind == "decoder"
    return {
        "r": method.rank,
        "lora_alpha": method.alpha,
        "use_rslora": method.rslora,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": _turned(base.family.model, sites),
        "alora_invocation_tokens": list(invocation) if answer_only else None,
        **targets(base, sites),
    }


def _lora_place(method: Lora, column: Column, config: Settings) -> Place:
    if column.name == "A":
        return Place(f"{PREFIX}{column.site.name}.lora_A.weight")
    rank = config["r"]
    theirs = config.get("lora_alpha", rank) / (rank**0.5 if config.get("use_rslora") else rank)
    return Place(f"{PREFIX}{column.site.name}.lora_B.weight", back=lambda tensor: tensor * (theirs / method.scale))


def _ia3_config(
    _: Ia3, base: FrozenBase, region: Region, columns: Sequence[Column], invocation: Sequence[int]
) -> Settings:
    if region.span == "answer" and base.family.kind == "decoder":
        raise PeftuError("export: peft's IA3 acts on all positions, this module on the answer only — use span=all")
    sites = _names(columns)  # by whole paths: peft has no layers_to_transform here
    return {
        "target_modules": sites,
        "feedforward_modules": _names([column for column in columns if column.name == "in"]),
        "fan_in_fan_out": _turned(base.family.model, sites),
    }


def _ia3_place(_: Ia3, column: Column, config: Settings) -> Place:
    side = 1 if column.name == "out" else 0
    return Place(
        f"{PREFIX}{column.site.name}.ia3_l",
        there=lambda tensor: (1 + tensor).unsqueeze(side),
        back=lambda tensor: tensor.squeeze(side) - 1,
    )


FORMATS: Mapping[type[Any], Format] = {
    Lora: Format("LORA", _lora_config, _lora_place),
    Ia3: Format("IA3", _ia3_config, _ia3_place),
}


def format_of(method: object) -> Format:
    """Returns how modules of a method are written for peft.

    Raises:
        PeftuError: peft has no such modules; the message names those that it has.
    """
    for kind, found in FORMATS.items():
        if isinstance(method, kind):
            return found
    known = ", ".join(sorted(kind.card.name for kind in FORMATS))
    name = getattr(method, "card").name  # noqa: B009  (any method has a card)
    raise PeftuError(f"method {name}: peft has no such module — it loads those of {known}")


def export_module(
    folder: Path,
    base: FrozenBase,
    region: Region,
    layout: Layout,
    row: Tensor,
    about: Settings,
    invocation: Sequence[int] = (),
) -> Path:
    """Returns the folder, now holding one user's module for peft; each file is written whole.

    Args:
        folder: made if need be.
        base: the base it was trained on.
        region: where it acts.
        layout: of the module.
        row: [width] its numbers.
        about: what ``peftu.json`` should say of it (method, knobs, prompt, labels); no user key belongs there.
        invocation: a decoder's tokens between text and answer.

    Raises:
        PeftuError: peft has no such module, or none in this region.
    """
    method, form = layout.method, format_of(layout.method)
    own = [column for column in layout.columns if column.site.kind != "head"]
    config: Settings = {
        "peft_type": form.kind,
        "task_type": TASK_TYPES[base.family.kind],
        "base_model_name_or_path": hub_name(base.name),
        "inference_mode": True,
        **form.config(method, base, region, own, invocation),
    }
    config = {key: value for key, value in config.items() if value is not None}
    views = layout.views(row[None].float())
    tensors, head = {}, {}
    for column in layout.columns:
        tensor = views[column.site.name][column.name][0]
        if column.site.kind == "head":
            head[column.name] = tensor.contiguous()
        else:
            place = form.place(method, column, config)
            tensors[place.name] = place.there(tensor).contiguous()
    said = {
        "format": 1,
        "base": base.name,
        "fingerprint": base.fingerprint,
        "region": {"depth": region.depth, "span": region.span},
        **about,
    }
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / WEIGHTS, save(tensors, {"format": "pt"}))
        if head:
            write_atomic(folder / HEAD, save(head, {"format": "pt"}))
        write_atomic(folder / CONFIG, json.dumps(config, indent=2) + "\n")
        write_atomic(folder / OWN, json.dumps(said, indent=2, ensure_ascii=False) + "\n")
    return folder


def import_module(folder: Path, base: FrozenBase, layout: Layout) -> Tensor:
    """Returns [width] a module read from a folder that peft or peftu wrote; nothing is unpickled.

    A LoRA of another alpha is rescaled, since only alpha times the matrices counts.

    Raises:
        PeftuError: no such folder, another base, another kind of module, or a tensor that is missing, unknown or of
            another shape; the message names it.
    """
    method, form = layout.method, format_of(layout.method)
    config = _json(folder / CONFIG, "an adapter folder of peft holds one")
    _same_base(folder, config, base)
    if config.get("peft_type") != form.kind:
        raise PeftuError(
            f"{folder / CONFIG}: peft_type is {config.get('peft_type')}, {method.card.name} is {form.kind}"
        )
    found = _tensors(folder / WEIGHTS)
    head = _tensors(folder / HEAD) if (folder / HEAD).exists() else {}
    row = torch.zeros(layout.width)
    for column in layout.columns:
        if column.site.kind == "head":
            name, theirs, where = column.name, head, folder / HEAD
            place = Place(name)
        else:
            place = form.place(method, column, {"r": _rank(folder, config, form), **config})
            name, theirs, where = place.name, found, folder / WEIGHTS
        if name not in theirs:
            raise PeftuError(f"{where}: lacks {name} — its targets or layers are others than this run's")
        tensor = place.back(theirs.pop(name).float())
        if tensor.shape != column.shape:
            wanted = tuple(place.there(torch.empty(column.shape)).shape)
            raise PeftuError(f"{where}: {name} is {tuple(tensor.shape)}, not {wanted} — another rank, width or base")
        row[column.start : column.stop] = tensor.flatten()
    for where, rest in ((folder / WEIGHTS, found), (folder / HEAD, head)):
        if rest:
            raise PeftuError(
                f"{where}: has {min(rest)}, where this run's modules do not act ({len(rest)} such tensors)"
            )
    return row


# --- names -----------------------------------------------------------------------------------------------------------


def hub_name(base: str) -> str:
    """Returns what peft should call a base: its id on the hub where peftu knows it."""
    return bases.get(base).hub if bases.is_own(base) else base


def _names(columns: Sequence[Column]) -> list[str]:
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
    layers = sorted({layer for site in sites if (layer := _layer(site)) is not None})
    pattern = {_stack(site) for site in sites}
    chosen = {name for name in alike if _layer(name) in layers and _stack(name) in pattern}
    if base.family.kind == "encoder_decoder" or len(pattern) > 1 or chosen != set(sites):
        return {"target_modules": list(sites)}
    return {"target_modules": suffixes, "layers_to_transform": layers, "layers_pattern": pattern.pop()}


def _is_map(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 2 and not isinstance(module, nn.Embedding)


def _layer(site: str) -> int | None:
    return next((int(part) for part in site.split(".") if part.isdigit()), None)


def _stack(site: str) -> str:
    parts = site.split(".")
    place = next((number for number, part in enumerate(parts) if part.isdigit()), 0)
    return parts[place - 1] if place else ""


def _turned(model: nn.Module, sites: Sequence[str]) -> bool:
    """Returns whether the maps keep their weights as [in, out], as GPT-2 does."""
    return not all(isinstance(model.get_submodule(site), nn.Linear) for site in sites)


# --- reading ---------------------------------------------------------------------------------------------------------


def _json(path: Path, mend: str) -> Settings:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise PeftuError(f"{path}: is not there — {mend}") from None
    except ValueError:
        read = None
    if not isinstance(read, dict):
        raise PeftuError(f"{path}: not a whole JSON object — export it again")
    return read


def _tensors(path: Path) -> dict[str, Tensor]:
    if not path.exists():
        mend = "save it with safe_serialization=True; pickled files are never read"
        raise PeftuError(f"{path}: is not there — {mend}")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise PeftuError(f"{path}: not a whole safetensors file ({error}) — export it again") from None


def _same_base(folder: Path, config: Settings, base: FrozenBase) -> None:
    """Checks that a folder's module was made on this base: by fingerprint where it has one, else by name."""
    if (folder / OWN).exists():
        made = _json(folder / OWN, "")
        if made.get("fingerprint") != base.fingerprint:
            raise PeftuError(
                f"{folder}: was made on {made.get('base')} with fingerprint {str(made.get('fingerprint'))[:19]}…, "
                f"this base is {base.name} with {base.fingerprint[:19]}… — use that base"
            )
        return
    named = config.get("base_model_name_or_path")
    if named not in (base.name, hub_name(base.name)):
        raise PeftuError(f"{folder / CONFIG}: was made on {named}, this run's base is {base.name} — use that base")


def _rank(folder: Path, config: Settings, form: Format) -> Any:
    if form.kind == "LORA" and not (isinstance(config.get("r"), int) and config["r"] > 0):
        raise PeftuError(f"{folder / CONFIG}: r is {config.get('r')!r}, not a rank — export it again")
    return config.get("r")
