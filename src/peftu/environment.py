"""What a run ran on: enough to explain a difference, nothing that names a person or a machine."""

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, Field

from peftu.errors import PeftuError

PACKAGES = (
    "peftu", "numpy", "polars", "pyarrow", "pydantic", "scikit-learn", "scipy", "torch", "transformers", "tokenizers",
    "safetensors", "gguf", "accelerate", "bitsandbytes", "peft", "ray",
)  # fmt: skip


class Environment(BaseModel):
    """Interpreter, machine and versions."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    python: str
    platform: str
    cpu: str
    cores: int = Field(description="Cores this process may use.")
    packages: dict[str, str]
    device: str | None = Field(None, description="What bases computed on: 'cpu', 'mps' or a card's name.")
    git: str | None = Field(None, description="Revision of peftu's own checkout, '-dirty' when changed; null if none.")


def current_environment(device: str | None = None) -> Environment:
    """Returns the environment of this process; reads versions without importing the packages.

    Args:
        device: what bases compute on, where they do.
    """
    return Environment(
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=_cpu(),
        cores=cores(),
        packages=dict(_packages()),
        device=device,
        git=_git_revision(Path(__file__).parent),
    )


def need_torch() -> None:
    """Checks that what trains is installed, without importing it.

    Raises:
        PeftuError: it is not.
    """
    if find_spec("torch") is None or find_spec("transformers") is None:
        raise PeftuError("this command needs torch and transformers — pip install 'peftu[train]'")


def cores() -> int:
    """Returns the number of cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def memory_bytes(limits: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """Returns the memory that this process may use in all: the machine's, or less where its container has a limit."""
    total = psutil.virtual_memory().total
    limit = limits.read_text().strip() if limits.exists() else ""
    return min(total, int(limit)) if limit.isdigit() else total


@cache  # as this and the next two: every cell says them, and a process's own do not change
def _packages() -> dict[str, str]:
    return {name: release for name in PACKAGES if (release := _version(name))}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@cache
def _git_revision(folder: Path) -> str | None:
    """Returns the revision of the checkout that tracks this package; None when installed from a wheel."""
    try:
        # A wheel unpacked below somebody's own repository must not borrow that repository's revision.
        tracked = ["ls-files", "--error-unmatch", "errors.py"]
        revision = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        for command in (tracked, revision):
            done = subprocess.run(
                ["git", "-C", str(folder), *command], capture_output=True, text=True, timeout=10, check=True
            )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
