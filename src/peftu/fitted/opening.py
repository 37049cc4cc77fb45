"""The base that something was fitted on, opened again: the same weights, here, in the numbers of then or in others."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from peftu.base.hardware import DTYPES, device_of, dtypes_of
from peftu.base.identity import FORMER
from peftu.base.model import FrozenBase, load_base
from peftu.config import HardwareSpec
from peftu.errors import PeftuError
from peftu.lab.lab import Lab

FORMER_DTYPES = ("float32", "bfloat16")  # that earlier releases took by themselves


def open_base(lab: Lab, name: str, about: Mapping[str, Any], where: str, moved: str | None = None) -> FrozenBase:
    """Returns the base that something was fitted on, known to the lab by name.

    It computes where and in what the lab's hardware says; of what that leaves unset, in the numbers of the fit where
    this machine has them.

    Args:
        lab: is told of it. One that has it already keeps what it has.
        name: what it was called.
        about: ``place`` (where it was), ``fingerprint``, ``dtype`` (None: an earlier release did not say) and
            ``quantize``.
        where: what was fitted, for messages.
        moved: where it is now, if elsewhere.

    Raises:
        PeftuError: it is not there, or another one; or hardware that is not here.
    """
    place, was = moved or about["place"], about["fingerprint"]
    if moved is None and place.startswith(("/", ".", "~")) and not Path(place).expanduser().is_dir():
        raise PeftuError(f"{where}: its base was in {place}, where no folder is — say with --base where it is now")
    if about["dtype"] not in (None, *DTYPES):
        raise PeftuError(f"{where}: was trained in '{about['dtype']}', which peftu does not read — run again")
    fitted, now = fitted_in(about) or HardwareSpec(), ""
    if was.startswith(FORMER):  # it is of the dtype, too
        for dtype in FORMER_DTYPES if about["dtype"] is None else (about["dtype"],):
            now = load_base(place, HardwareSpec(device="cpu", dtype=dtype)).former_fingerprint
            if now == was:
                fitted = HardwareSpec(dtype=dtype)
                break
    hardware = _hardware(fitted, lab.hardware)
    base = lab.loaded.get(name) or load_base(place, hardware, lab.reporter.note)
    now = now or base.fingerprint
    if was == now:
        base.name = name
        lab.add(name, base)
        return base
    if moved is not None:
        raise PeftuError(
            f"--base {moved}: is not the base {about['place']} that {where} was trained on — pass that one"
        )
    was, now = (fingerprint.rpartition(":")[2][:8] for fingerprint in (was, now))
    changed = f"base {place} has changed since training (weights {was}… then, {now}… now)"
    raise PeftuError(f"{where}: {changed} — restore it, or run again")


def fitted_in(about: Mapping[str, Any]) -> HardwareSpec | None:
    """Returns the dtype and the quantisation that something was fitted in; None: an earlier release did not say."""
    if about["dtype"] is None:
        return None
    return HardwareSpec(dtype=about["dtype"], quantize=about.get("quantize", "none"))


def _hardware(fitted: HardwareSpec, given: HardwareSpec) -> HardwareSpec:
    """Returns where and in what to compute: as given, else as fitted; in a dtype of this machine's if it lacks that."""
    wanted = given.model_dump(exclude_unset=True)
    if "dtype" not in wanted and fitted.dtype not in dtypes_of(torch.device(device_of(given))):
        wanted["dtype"] = "auto"
    return fitted.model_copy(update=wanted)
