"""One user's module as a folder that the `peft` library loads, and back.

A folder holds ``adapter_config.json`` and ``adapter_model.safetensors`` as peft writes them, and ``peftu.json`` with
what peft has no word for: prompt, labels, region and the base's fingerprint. A head of our own (encoders have one)
stands in ``peftu_head.safetensors``, since peft has no label head that sits on a sentence vector.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from peftu.bank import Layout
from peftu.base.cards import bases
from peftu.base.model import FrozenBase
from peftu.base.region import Region
from peftu.data.sources import writing_to
from peftu.errors import PeftuError
from peftu.peft_formats import Made, Settings, Tensors, format_of
from peftu.results import write_atomic

CONFIG, WEIGHTS, OWN, HEAD = "adapter_config.json", "adapter_model.safetensors", "peftu.json", "peftu_head.safetensors"
TASK_TYPES = {"decoder": "CAUSAL_LM", "encoder_decoder": "SEQ_2_SEQ_LM", "encoder": "FEATURE_EXTRACTION"}


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
        invocation: a decoder's tokens between text and answer that lie in the region.

    Raises:
        PeftuError: peft has no such module, or none in this region.
    """
    made, form = Made(layout.method, base, region, invocation), format_of(layout.method)
    form.fits(made)
    own = [column for column in layout.columns if column.site.kind != "head"]
    config: Settings = {
        "peft_type": form.kind,
        "task_type": TASK_TYPES[base.family.kind],
        "base_model_name_or_path": hub_name(base.name),
        "inference_mode": True,
        **form.config(made, own),
    }
    sites = layout.views(row[None].float())
    views = {column: sites[column.site.name][column.name][0] for column in layout.columns}
    tensors = form.write(made, {column: views[column] for column in own})
    head = {column.name: view.contiguous() for column, view in views.items() if column.site.kind == "head"}
    said = {
        "format": 1,
        "base": base.name,
        "fingerprint": base.fingerprint,
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
        write_atomic(folder / OWN, json.dumps(said, indent=2, ensure_ascii=False) + "\n")
    return folder


def import_module(
    folder: Path, base: FrozenBase, region: Region, layout: Layout, invocation: Sequence[int] = ()
) -> Tensor:
    """Returns [width] a module read from a folder that peft or peftu wrote; nothing is unpickled.

    Args:
        folder: with the config and the tensors.
        base: the base that it is to act on.
        region: where modules of this layout act.
        layout: of the module.
        invocation: a decoder's tokens between text and answer that lie in the region.

    Raises:
        PeftuError: no such folder, another base, another kind of module, or a tensor that is missing, unknown or of
            another shape; the message names it.
    """
    made, form = Made(layout.method, base, region, invocation), format_of(layout.method)
    form.fits(made)
    config = _json(folder / CONFIG, "an adapter folder of peft holds one")
    _same_base(folder, config, base)
    if config.get("peft_type") != form.kind:
        name = made.method.card.name
        raise PeftuError(f"{folder / CONFIG}: peft_type is {config.get('peft_type')}, {name} is {form.kind}")
    found = _tensors(folder / WEIGHTS)
    head = _tensors(folder / HEAD) if (folder / HEAD).exists() else Tensors(folder / HEAD, {})
    own = [column for column in layout.columns if column.site.kind != "head"]
    tensors = form.read(made, own, found, config)
    row = torch.zeros(layout.width)
    for column in layout.columns:
        tensor = tensors[column] if column in tensors else head.take(column.name, column.shape)
        row[column.start : column.stop] = tensor.flatten()
    found.empty()
    head.empty()
    return row


def hub_name(base: str) -> str:
    """Returns what peft should call a base: its id on the hub where peftu knows it."""
    return bases.get(base).hub if bases.is_own(base) else base


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


def _tensors(path: Path) -> Tensors:
    if not path.exists():
        mend = "save it with safe_serialization=True; pickled files are never read"
        raise PeftuError(f"{path}: is not there — {mend}")
    try:
        return Tensors(path, load_file(path))
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
