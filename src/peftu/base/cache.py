"""What `prefill` computed, kept on disk for the next run: other seeds, methods and regularisers read the same texts.

Texts are people's data. A file is named by hashes only, holds states and token numbers but no text, and can be read by
its owner alone; `PEFTU_REGION_CACHE_BYTES=0` keeps nothing.

Any number of processes share a folder: each maps its files into memory, one computes what is not there yet while the
others wait, and a file that is removed can be read on by whoever has it open. A folder that cannot be used is a note.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from peftu.base.answers import Answer
from peftu.base.families.family import Context
from peftu.base.model import FrozenBase
from peftu.base.packed import Packed
from peftu.base.prompt import Prompt, TrieNode
from peftu.base.region import Region
from peftu.base.weights import Say
from peftu.data.sources import cache_dir, writing_to
from peftu.errors import PeftuError
from peftu.files import only_one, partial, sha256_of

_log = logging.getLogger(__name__)

FORMAT = 4  # raised when what a family's prefill makes changes
LIMIT = "PEFTU_REGION_CACHE_BYTES"
DISK_BYTES = 8 << 30
MEMORY_BYTES = 1 << 30  # larger contexts are read from their file, page by page
LEAST_TOKENS = 2048  # fewer are computed faster than read
ABANDONED = 86_400.0  # seconds after which a file that was never finished is nobody's
REGIONS = "regions"  # the folder in peftu's cache
ITEMS = "items"  # the tensor of hashes that say what a file was made from
_COUNTS = ("count", "cut", "tokens", "span_tokens", "longest", "beside_cut", "answers_cut")
_noted: set[Path] = set()  # folders that this process has said it cannot use


class RegionCache:
    """Contexts in files, the least recently used making room for new ones.

    Args:
        folder: where they lie; None: in peftu's cache.
        limit: bytes of all files; None: $PEFTU_REGION_CACHE_BYTES or 8 GiB.
        least: tokens of the smallest context that is kept.
        say: told in words what could not be read or kept; it is computed.
    """

    def __init__(
        self, folder: Path | None = None, limit: int | None = None, least: int = LEAST_TOKENS, say: Say = _log.warning
    ) -> None:
        self.folder = folder or cache_dir() / REGIONS
        self.limit = _limit() if limit is None else limit
        self.least, self.say = least, say

    def get(
        self, base: FrozenBase, prompt: Prompt, region: Region, items: Sequence[Any], make: Callable[[], Context]
    ) -> Context:
        """Returns the context of these items, read if it was kept, else made and kept.

        Args:
            base: the base.
            prompt: what it is told.
            region: the region.
            items: texts, or answers with their texts: all that ``make`` reads.
            make: computes it.
        """
        if not self.limit:
            return make()
        key = _key(base, prompt, region, items)
        if (kept := self._read(key, base, prompt, region)) is not None:
            return kept
        with self._filling(key):
            if (kept := self._read(key, base, prompt, region)) is not None:
                return kept
            start = time.perf_counter()
            context = make()
            if context.tokens < self.least:
                return context
            size = self._write(key, context, items, time.perf_counter() - start)
        kept = self._read(key, base, prompt, region) if size > MEMORY_BYTES else None
        return context if kept is None else replace(kept, seconds=0.0)  # made in this run, which knows how long it took

    def _read(self, key: str, base: FrozenBase, prompt: Prompt, region: Region) -> Context | None:
        try:
            for path in self.folder.glob(f"{key}.*.safetensors"):
                try:
                    return _opened(path, base, prompt, region)
                except FileNotFoundError:  # another process made room
                    continue
                except (ValueError, KeyError, TypeError, SafetensorError) as error:
                    self.say(f"{self.folder}: a region is damaged ({type(error).__name__}) and is computed again")
                    path.unlink(missing_ok=True)
        except (OSError, RuntimeError) as error:  # the latter is torch's, where a file cannot be mapped
            self._unusable(error)
        return None

    @contextmanager
    def _filling(self, key: str) -> Iterator[None]:
        """Lets one process at a time compute a region; where there can be no lock, each does, and the last one wins."""
        lock = self.folder / f".{key}.lock"
        with ExitStack() as held:
            with suppress(OSError):  # writing says what is wrong with the folder
                self._prepare()
                held.enter_context(
                    only_one(lock, lambda: self.say("another process reads these texts; waiting for it"))
                )
                held.callback(_remove, lock)  # who comes later finds the region, or computes it to no harm
            yield

    def _prepare(self) -> None:
        """Makes the folder, the owner's alone."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (mode := self.folder.stat().st_mode) & 0o077:
            self.folder.chmod(mode & 0o700)

    def _write(self, key: str, context: Context, items: Sequence[Any], seconds: float) -> int:
        """Returns the bytes written; 0 where the context is larger than the cache may be, or cannot be written."""
        tensors: dict[str, Tensor] = {}
        about = {name: getattr(context, name) for name in _COUNTS}
        about |= {"seconds": seconds, "state": _packed(context.state, tensors)}
        about["nodes"] = [[node.prefix, node.tokens, node.branch] for node in context.nodes]
        size = sum(tensor.nbytes for tensor in tensors.values())
        tensors[ITEMS] = torch.tensor(sorted({_mark(item) for item in items}), dtype=torch.int64)
        if size > self.limit:
            return 0
        try:
            self._prepare()
            with partial(self.folder / key) as part:
                save_file(tensors, part, metadata={"context": json.dumps(about)})
                part.chmod(0o600)
                part.replace(self.folder / f"{key}.{sha256_of(part)}.safetensors")
            self._make_room()
        except (OSError, SafetensorError) as error:  # the latter, too, where the disk is full
            self._unusable(error)
            return 0
        return size

    def forget(self, items: Iterable[Any]) -> int:
        """Returns how many files were removed because they were made from one of these, or cannot tell.

        Args:
            items: texts, or what was answered to any.

        Raises:
            PeftuError: the folder cannot be written.
        """
        marks, gone = {_mark(item) for item in items}, 0
        if not self.folder.is_dir():
            return 0
        with writing_to(self.folder):
            for path in self.folder.glob("*.safetensors"):
                if not marks.isdisjoint(_made_of(path, marks)):
                    path.unlink(missing_ok=True)
                    gone += 1
        return gone

    def _make_room(self) -> None:
        files = []
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):  # another process makes room, too
                files.append((path.stat(), path))
        files.sort(key=lambda file: file[0].st_mtime, reverse=True)
        used = 0
        for about, path in files:
            if path.suffix == ".safetensors":
                used += about.st_size
                if used > self.limit and used > about.st_size:  # the newest stays
                    path.unlink(missing_ok=True)
            elif path.name.startswith(".") and time.time() - about.st_mtime > ABANDONED:
                path.unlink(missing_ok=True)  # a lock, a part of ours, or the one that safetensors writes it through

    def _unusable(self, error: Exception) -> None:
        """Says once a process that this folder cannot be used."""
        if self.folder not in _noted:
            _noted.add(self.folder)
            why = getattr(error, "strerror", None) or str(error).partition("\n")[0]
            self.say(f"{self.folder}: {why} — texts are read anew; free space, mend its rights, or set PEFTU_CACHE")


def _opened(path: Path, base: FrozenBase, prompt: Prompt, region: Region) -> Context:
    """Returns the context in a file, mapped into memory where the base is on a processor: nothing is copied.

    Raises:
        OSError, RuntimeError: the file is not there, or cannot be read.
        ValueError, KeyError, TypeError, SafetensorError: it is damaged.
    """
    with path.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != path.name.split(".")[1]:
            raise ValueError("its bytes are not what was written")
        held = Path(f"/proc/self/fd/{stream.fileno()}")  # torch opens it again by name, which may be gone by then
        with safe_open(held if held.exists() else path, framework="pt", device=str(base.device)) as file:
            about = json.loads(file.metadata()["context"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    with suppress(OSError):  # only who is least recently used is less exact
        os.utime(path)
    nodes = tuple(TrieNode(*(tuple(part) for part in node)) for node in about["nodes"])
    counts = {name: about[name] for name in _COUNTS}
    state = _unpacked(about["state"], tensors)
    return Context(region, prompt, nodes, state=state, seconds=about["seconds"], **counts)


def _made_of(path: Path, unknown: Collection[int]) -> Collection[int]:
    """Returns the hashes of what a file was made from; ``unknown``: it cannot tell."""
    try:
        with safe_open(path, framework="pt") as file:
            held: list[int] = file.get_tensor(ITEMS).tolist()
    except (OSError, SafetensorError):
        return unknown
    return held


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _limit() -> int:
    given = os.environ.get(LIMIT)
    if given is None:
        return DISK_BYTES
    if not given.isdigit():
        raise PeftuError(f"{LIMIT}: '{given}' is not a number of bytes — set it to 0 to keep nothing")
    return int(given)


def _key(base: FrozenBase, prompt: Prompt, region: Region, items: Sequence[Any]) -> str:
    """Returns a hash of all that a context depends on."""
    versions = [FORMAT, torch.__version__, transformers.__version__]
    # Weights say nothing of rotary angles, norms' epsilons or where a text begins.
    family = cast(Any, base.family)
    config = {name: value for name, value in family.model.config.to_dict().items() if name != "_name_or_path"}
    about = [*versions, str(base.device), str(base.dtype), base.hardware.quantize, base.fingerprint, config]
    about += [family.tokenizer.special_tokens_map, repr(base.recorded(prompt)), repr(region)]
    digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode())
    for item in items:
        digest.update(repr(item).encode() + b"\0")
    return digest.hexdigest()


def _mark(item: Any) -> int:
    """Returns 64 bits of a hash of a text, or of an answer whatever it is to."""
    item = item.words if isinstance(item, Answer) else item
    return int.from_bytes(hashlib.sha256(repr(item).encode()).digest()[:8], "little", signed=True)


def _packed(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Returns a value as JSON that names its tensors, which are put into ``tensors``."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        whole = value.untyped_storage().nbytes() == value.nbytes
        tensors[name] = value.contiguous() if whole else value.contiguous().clone()
        return {"host" if value.device.type == "cpu" else "tensor": name}
    if isinstance(value, Packed):
        return {"packed": [_packed(part, tensors) for part in (value.values, value.offsets)]}
    if isinstance(value, dict):
        return {"dict": [[_packed(key, tensors), _packed(item, tensors)] for key, item in value.items()]}
    if type(value) in (list, tuple):
        return {type(value).__name__: [_packed(item, tensors) for item in value]}
    if value is None or isinstance(value, int | float | str):
        return {"plain": value}
    raise TypeError(f"a context holds a {type(value).__name__}")


def _unpacked(about: Any, tensors: dict[str, Tensor]) -> Any:
    """Returns the value that `_packed` described."""
    ((kind, value),) = about.items()
    if kind in ("tensor", "host"):
        return tensors[value] if kind == "tensor" else tensors[value].cpu()
    if kind == "plain":
        return value
    if kind == "dict":
        return {_unpacked(key, tensors): _unpacked(item, tensors) for key, item in value}
    parts = [_unpacked(item, tensors) for item in value]
    return Packed(*parts) if kind == "packed" else tuple(parts) if kind == "tuple" else parts
