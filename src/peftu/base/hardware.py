"""Where a base computes and in which numbers: what 'auto' comes to here, and what this machine cannot do.

Dtype, device and quantisation stand beside a base's fingerprint and are no part of it. A device changes rounding alone;
a dtype or a quantisation changes numbers, and is noted wherever modules come from another.
"""

from importlib.util import find_spec

import torch

from peftu.config import HardwareSpec
from peftu.errors import PeftuError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
AMPERE = 8  # first major compute capability that multiplies bfloat16; older cards imitate it slowly
QUANTISERS = ("bitsandbytes", "accelerate")  # both are needed to read a base quantised


def resolved(spec: HardwareSpec) -> HardwareSpec:
    """Returns where a base computes here, with nothing left 'auto'; a GPU is taken where there is one.

    'auto' is bfloat16 where the card or the processor multiplies it natively, else float32. Half precision is for
    GPUs: processors emulate it, and nothing here scales its loss. A Mac's GPU is taken only when it is asked for.

    Raises:
        PeftuError: no such device, a dtype that it does not have, or a library of quantised bases is missing.
    """
    device = torch.device(device_of(spec))
    _check_device(device)
    able = dtypes_of(device)
    dtype = default_dtype(device) if spec.dtype == "auto" else spec.dtype
    if dtype not in able:
        raise PeftuError(f"--dtype {dtype}: {described(device)} has none — use {' or '.join(able)}")
    if spec.quantize != "none":
        missing = [package for package in QUANTISERS if find_spec(package) is None]
        if missing:
            lack = " and ".join(missing)
            raise PeftuError(
                f"--quantize {spec.quantize}: needs {lack} — pip install 'peftu[quantize]', or --quantize none"
            )
        if device.type == "mps":
            raise PeftuError(f"--quantize {spec.quantize}: is not for mps — use --device cpu, or leave it out")
    return HardwareSpec(device=str(device), dtype=dtype, quantize=spec.quantize)


def device_of(spec: HardwareSpec) -> str:
    """Returns the device that is meant, which may not be here."""
    if spec.device != "auto":
        return spec.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def default_dtype(device: torch.device) -> str:
    """Returns what dtype 'auto' is on a device."""
    native = device.type == "cuda" and "bfloat16" in dtypes_of(device)
    if device.type == "cpu":
        wide = "AVX512" in torch.backends.cpu.get_cpu_capability()
        native = wide and getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return "bfloat16" if native else "float32"


def dtypes_of(device: torch.device) -> tuple[str, ...]:
    """Returns the dtypes that a base can have on a device."""
    if device.type == "cpu":
        return ("float32", "bfloat16")
    nvidia = device.type == "cuda" and torch.version.hip is None
    if nvidia and torch.cuda.get_device_properties(device).major < AMPERE:
        return ("float32", "float16")
    return ("float32", "bfloat16", "float16")


def gpu_count() -> int:
    """Returns how many GPUs 'cuda' may mean."""
    return torch.cuda.device_count()


def described(device: torch.device) -> str:
    """Returns what a device is: 'cpu', 'mps', or a card's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _check_device(device: torch.device) -> None:
    if device.type == "cuda":
        if not torch.cuda.is_available():
            why = "torch was built without CUDA" if torch.version.cuda is None else "torch sees no GPU here"
            raise PeftuError(f"--device {device}: {why} — use --device cpu, or see 'peftu doctor'")
        if (device.index or 0) >= (count := gpu_count()):
            raise PeftuError(f"--device {device}: there are {count} GPUs, the last is cuda:{count - 1} — use that one")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise PeftuError("--device mps: is a Mac's GPU, and there is none here — use --device cpu")
