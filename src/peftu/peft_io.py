"""One user's module as a folder that the `peft` library loads, and back.

A folder holds ``adapter_config.json`` and ``adapter_model.safetensors`` as peft writes them, and ``peftu.json`` with
what peft has no word for: prompt, labels, region and the base's fingerprint. A head of our own (encoders have one)
stands in ``peftu_head.safetensors``, since peft has no label head that sits on a sentence vector.
"""

import json
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from peftu.bank import Layout
from peftu.base.cards import BaseCard, bases
from peftu.base.identity import FORMER
from peftu.base.model import FrozenBase
from peftu.base.prompt import Prompt
from peftu.base.region import Region
from peftu.data.sources import writing_to
from peftu.errors import PeftuError
from peftu.files import write_atomic
from peftu.methods.lora import Lora
from peftu.outside import parse_json, quoted
from peftu.peft_config import Settings
from peftu.peft_formats import CONFIG, Made, Tensors, format_of

WEIGHTS, OWN, HEAD = "adapter_model.safetensors", "peftu.json", "peftu_head.safetensors"

# Types of decoders in which each server applies LoRA: vLLM by the column of its table of supported models (GPT-2 and
# GPT-NeoX are there without a tick), LoRAX by its list of base models and the classes that take an adapter.
VLLM = frozenset({"llama", "mistral", "qwen2", "qwen3", "smollm3", "olmo2", "gemma", "phi3"})
LORAX = frozenset({"llama", "mistral", "qwen2", "gemma", "phi3"})
VLLM_RANKS = (16, 32, 64, 128, 256, 320, 512)  # for --max-lora-rank; the first is the default


def export_module(
    folder: Path, base: FrozenBase, prompt: Prompt, region: Region, layout: Layout, row: Tensor, about: Settings
) -> Path:
    """Returns the folder, now holding one user's module for peft; each file is written whole.

    Args:
        folder: made if need be.
        base: the base it was trained on.
        prompt: what that read, and how it answered.
        region: where it acts.
        layout: of the module.
        row: [width] its numbers.
        about: what ``peftu.json`` should say of it (method, knobs, prompt, labels); no user key belongs there.

    Raises:
        PeftuError: peft has no such module, none in this region, or would not find the place where it acts.
    """
    made, form = Made(layout.method, base, prompt, region), format_of(layout.method)
    form.fits(made)
    peft_columns = [column for column in layout.columns if column.site.kind != "head"]
    config: Settings = {
        "peft_type": form.kind,
        "task_type": made.task_type,
        "base_model_name_or_path": peft_name(base.name),
        "inference_mode": True,
        **form.config(made, peft_columns),
    }
    sites = layout.views(row[None].float())
    views = {column: sites[column.site.name][column.name][0] for column in layout.columns}
    tensors = form.write(made, {column: views[column] for column in peft_columns})
    head = {column.name: view.contiguous() for column, view in views.items() if column.site.kind == "head"}
    details = {
        "format": 1,
        "base": base.name,
        "fingerprint": base.fingerprint,
        "weights": weights_of(base.name),
        "region": {"depth": region.depth, "span": region.span},
        **about,
    }
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(
            folder / WEIGHTS, save({name: tensor.contiguous() for name, tensor in tensors.items()}, {"format": "pt"})
        )
        if head:
            write_atomic(folder / HEAD, save(head, {"format": "pt"}))
        write_atomic(folder / CONFIG, json.dumps(config, indent=2) + "\n")
        write_atomic(folder / OWN, json.dumps(details, indent=2, ensure_ascii=False) + "\n")
    return folder


def import_module(folder: Path, base: FrozenBase, prompt: Prompt, region: Region, layout: Layout) -> Tensor:
    """Returns [width] a module read from a folder that peft or peftu wrote; nothing is unpickled.

    Args:
        folder: with the config and the tensors.
        base: the base that it is to act on.
        prompt: what that reads, and how it answers.
        region: where modules of this layout act.
        layout: of the module.

    Raises:
        PeftuError: no such folder, another base, another kind of module, a key that modules here have no word for, or
            a tensor that is missing, unknown, of another shape or holds no sensible numbers; the message names it.
    """
    made, form = Made(layout.method, base, prompt, region), format_of(layout.method)
    form.fits(made)
    config = _json(folder / CONFIG, "an adapter folder of peft holds one")
    _same_base(folder, config, base)
    if (kind := config.get("peft_type")) != form.kind:
        raise PeftuError(f"{folder / CONFIG}: peft_type is {quoted(kind)}, {made.method.card.name} is {form.kind}")
    form.keys.check(folder / CONFIG, config)
    stored = _tensors(folder / WEIGHTS)
    head = _tensors(folder / HEAD) if (folder / HEAD).exists() else Tensors(folder / HEAD, {})
    peft_columns = [column for column in layout.columns if column.site.kind != "head"]
    tensors = form.read(made, peft_columns, stored, config)
    row = torch.zeros(layout.width)
    for column in layout.columns:
        tensor = tensors[column] if column in tensors else head.take(column.name, column.shape)
        row[column.start : column.stop] = tensor.flatten()
    stored.empty()
    head.empty()
    return row


def peft_name(base: str) -> str:
    """Returns what peft should call a base: its id on the hub, where the hub has the weights that it stands for."""
    card = _card(base)
    return card.hub if card is not None and card.gguf is None else base


def weights_of(base: str) -> str | None:
    """Returns whose weights a base has, in words, where they are not those of the hub's model; else None."""
    card = _card(base)
    return None if card is None or card.gguf is None else f"dequantised from {card.gguf}, not {card.hub}'s own"


def loaders(base: FrozenBase, region: Region, layout: Layout) -> tuple[list[str], list[str]]:
    """Returns who loads a module that was exported, and what to know about it.

    The servers apply LoRA in decoders of some types, on every position: no other kind of module, no head, and no
    activated LoRA. LoRAX takes for unchanged what is not changed in every layer.

    Args:
        base: the base it was trained on.
        region: where it acts.
        layout: of the module.
    """
    kind, head = cast(Any, base.family.model).config.model_type, any(c.site.kind == "head" for c in layout.columns)
    notes = [f"its head is in {HEAD}, which only peftu reads"] if head else []
    if (weights := weights_of(base.name)) is not None:
        notes.append(f"it was trained on weights {weights}: give it those in {bases.get(base.name).folder}")
    programs = ["peft"]
    if isinstance(layout.method, Lora) and base.family.kind == "decoder" and region.span == "all" and not head:
        rank = next((most for most in VLLM_RANKS if layout.method.rank <= most), None)
        if kind in VLLM and rank is not None:
            programs.append("vLLM")
            notes += [f"vLLM needs --max-lora-rank {rank}"] if rank > VLLM_RANKS[0] else []
        if kind in LORAX and region.depth == base.family.layers:
            programs.append("LoRAX")
    return programs, notes


def _card(base: str) -> BaseCard | None:
    return bases.get(base) if bases.is_own(base) else None


# --- reading ---------------------------------------------------------------------------------------------------------


def _json(path: Path, mend: str) -> Settings:
    if not path.is_file():
        raise PeftuError(f"{path}: is not there — {mend}")
    try:
        read = parse_json(path.read_text(encoding="utf-8"), halves=True)
    except OSError as error:
        raise PeftuError(f"{path}: cannot be read ({error.strerror}) — {mend}") from None
    except ValueError:
        read = None
    if not isinstance(read, dict):
        raise PeftuError(f"{path}: not a whole JSON object — export it again")
    return read


def _tensors(path: Path) -> Tensors:
    if not path.is_file():
        mend = "save it with safe_serialization=True; pickled files are never read"
        raise PeftuError(f"{path}: is not there — {mend}")
    try:
        return Tensors(path, load_file(path))
    except (SafetensorError, OSError) as error:
        raise PeftuError(f"{path}: not a whole safetensors file ({error}) — export it again") from None


def _same_base(folder: Path, config: Settings, base: FrozenBase) -> None:
    """Checks that a folder's module was made on this base: by fingerprint where it has one, else by name."""
    if (folder / OWN).exists():
        made = _json(folder / OWN, "export it again")
        mark = made.get("fingerprint")
        former = isinstance(mark, str) and mark.startswith(FORMER)  # exported by an earlier release
        if mark != (base.former_fingerprint if former else base.fingerprint):
            raise PeftuError(
                f"{folder}: was made on {quoted(made.get('base'))} with fingerprint {quoted(str(mark)[:19])}…, "
                f"this base is {base.name} with {base.fingerprint[:19]}… — use that base"
            )
        return
    path, card = folder / CONFIG, _card(base.name)
    named, revision = config.get("base_model_name_or_path"), config.get("revision")
    if card is not None and card.gguf is not None and named == card.hub:
        raise PeftuError(
            f"{path}: was made on {card.hub}, this run's base is {weights_of(base.name)} — run on --base {card.hub}"
        )
    if named not in (base.name, peft_name(base.name), *([str(card.folder)] if card is not None else [])):
        raise PeftuError(f"{path}: was made on {quoted(named)}, this run's base is {base.name} — use that base")
    if revision not in (None, "main", *([card.revision] if card is not None else [])):
        raise PeftuError(f"{path}: was made on revision {quoted(revision)} of {base.name} — save that in a folder")
