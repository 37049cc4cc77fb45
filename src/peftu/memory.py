"""Work that may find too little memory, on a processor or an accelerator."""

import ctypes
import gc
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import torch

T = TypeVar("T")
KEPT_BYTES = 512 << 20  # of freed memory; a cohort takes half of it
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # mallopt's names in glibc's malloc.h
LARGEST_THRESHOLD = 32 << 20  # the most that glibc takes
# What PyTorch's allocators, C++ and cuBLAS say; only the accelerator's own allocator has a type of error for it.
SIGNS = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc", "ALLOC_FAILED")


def out_of_memory(error: BaseException) -> bool:
    """Returns whether an error says that there was not enough memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def tried(work: Callable[[], T]) -> T | None:
    """Returns what the work returns; None where memory ran out, and then nothing that it had made is left."""
    try:
        return work()
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
    # Only here, behind the handler, are the frames gone that held what had been made.
    gc.collect()
    give_back()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
    return None


@cache
def keep() -> None:
    """Lets what a step frees be used by the next: glibc would give it back, and fresh pages cost a step a tenth."""
    if (set_option := _glibc("mallopt")) is not None:
        set_option(MMAP_THRESHOLD, LARGEST_THRESHOLD)
        set_option(TRIM_THRESHOLD, KEPT_BYTES)


def give_back() -> None:
    """Gives memory that was freed back to the system: glibc keeps it in pieces, and a run of many cells would grow."""
    if (trim := _glibc("malloc_trim")) is not None:
        trim(0)


@cache
def _glibc(name: str) -> Any:
    """Returns a function of glibc's; None where there is another C library, or another system."""
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None
