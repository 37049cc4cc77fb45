"""What this machine has for peftu, and what is missing with its mend."""

import importlib.util
import os
import platform
import re
import shutil
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

import psutil

import peftu
from peftu.base.cards import describe_bases
from peftu.data.sources import cache_dir
from peftu.environment import cores, memory_bytes

EXTRAS = ("train", "quantize", "report", "serve", "ray")
DEFAULT_BASE = "smollm2-135m-instruct"
LOW_MEMORY = 3 * 10**9
LOW_DISK = 2 * 10**9


def examine() -> dict[str, Any]:
    """Returns plain data about interpreter, machine, cache, libraries and bases, and a list of ``problems``.

    Each problem is a dict with ``problem`` and ``mend``. ``torch`` is None where it (or transformers) is not
    installed. Nothing is fetched and nothing is written.
    """
    facts: dict[str, Any] = {
        "peftu": peftu.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": cores(),
        "memory_bytes": memory_bytes(),
        "free_memory_bytes": min(psutil.virtual_memory().available, memory_bytes()),
        "cache": _cache(),
        "torch": _torch(),
        "extras": _extras(),
        "bases": describe_bases(),
    }
    return facts | {"problems": _problems(facts)}


def as_rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns (name, value) pairs of an examination, in the order a reader wants them; problems are not among them."""
    cache, torch = facts["cache"], facts["torch"]
    rows = [
        ("peftu", facts["peftu"]),
        ("python", f"{facts['python']} on {facts['platform']}"),
        ("cores", str(facts["cores"])),
        ("memory", f"{_gb(facts['memory_bytes'])}, {_gb(facts['free_memory_bytes'])} free"),
        ("cache", f"{cache['path']}: {_gb(cache['bytes'])} used, {_gb(cache['free_bytes'])} free"),
        ("torch", _torch_words(torch)),
    ]
    for name, missing in facts["extras"].items():
        rows.append((f"extra {name}", f"missing {', '.join(missing)}" if missing else "installed"))
    for base in facts["bases"]:
        rows.append(
            (f"base {base['name']}", "in the cache" if base["cached"] else f"not fetched yet ({base['source']})")
        )
    return rows


def _cache() -> dict[str, Any]:
    path = cache_dir()
    nearest = next(folder for folder in (path, *path.parents) if folder.exists())
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    free = shutil.disk_usage(nearest).free
    writable = nearest.is_dir() and os.access(nearest, os.W_OK)
    return {"path": str(path), "bytes": size, "free_bytes": free, "writable": writable}


def _torch() -> dict[str, Any] | None:
    if any(importlib.util.find_spec(package) is None for package in ("torch", "transformers")):
        return None
    import torch

    from peftu.base.hardware import described, dtypes_of, gpu_count, resolved
    from peftu.config import HardwareSpec

    base = resolved(HardwareSpec())
    gpus = [
        {
            "name": described(device),
            "memory_bytes": torch.cuda.get_device_properties(device).total_memory,
            "dtypes": list(dtypes_of(device)),
        }
        for device in (torch.device("cuda", number) for number in range(gpu_count()))
    ]
    return {
        "version": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": base.device,
        "dtype": base.dtype,
        "dtypes": list(dtypes_of(torch.device(base.device))),
        "gpus": gpus,
    }


def _torch_words(torch: dict[str, Any] | None) -> str:
    if torch is None:
        return "not installed"
    gpus = ", ".join(f"{gpu['name']} ({_gb(gpu['memory_bytes'])})" for gpu in torch["gpus"]) or "no GPU"
    others = " or ".join(dtype for dtype in torch["dtypes"] if dtype != torch["dtype"])
    bases = f"bases run on {torch['device']} in {torch['dtype']} (--dtype {others} can be had)"
    return f"{torch['version']}, {torch['threads']} threads, {bases}, {gpus}"


def _extras() -> dict[str, list[str]]:
    """Returns for each extra the packages of it that are not installed."""
    try:
        wanted = requires("peftu") or []
    except PackageNotFoundError:  # run from a source tree without an install: nothing says what belongs to an extra
        return {}
    missing: dict[str, list[str]] = {name: [] for name in EXTRAS}
    for line in wanted:
        package = re.match(r"[\w.-]+", line)
        extra = re.search(r"extra == ['\"](\w+)['\"]", line)
        if package and extra and extra[1] in missing and not _installed(package[0]):
            missing[extra[1]].append(package[0])
    return missing


def _installed(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def _problems(facts: dict[str, Any]) -> list[dict[str, str]]:
    cache, torch, missing = facts["cache"], facts["torch"], facts["extras"].get("train", [])
    cached = {base["name"] for base in facts["bases"] if base["cached"]}
    checks = [
        (not cache["writable"], f"{cache['path']} cannot be written", "mend its rights, or set PEFTU_CACHE elsewhere"),
        (
            cache["free_bytes"] < LOW_DISK,
            f"{_gb(cache['free_bytes'])} free for the cache",
            "free some, or set PEFTU_CACHE elsewhere",
        ),
        (
            facts["free_memory_bytes"] < LOW_MEMORY,
            f"{_gb(facts['free_memory_bytes'])} of memory free",
            "close other programs, or train fewer users at a time",
        ),
        (
            torch is None or bool(missing),
            f"training is not installed ({', '.join(missing) or 'torch'})",
            "pip install 'peftu[train]'",
        ),
        (
            DEFAULT_BASE not in cached,
            f"the default base {DEFAULT_BASE} is not in the cache",
            f"python -m peftu.base.weights {DEFAULT_BASE} (98 MB; otherwise fetched at first use)",
        ),
    ]
    return [{"problem": problem, "mend": mend} for wrong, problem, mend in checks if wrong]


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
