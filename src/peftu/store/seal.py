"""Encryption at rest: each module's numbers are sealed with AES-256-GCM, under a key that lies in a file elsewhere.

A module is sealed by itself, so that one user's is read alone and a deletion rewrites shards without the key. Users'
keys, dates and checksums stand in the index as they are.
"""

import os
import secrets
from pathlib import Path

from peftu.errors import PeftuError
from peftu.files import private_file

KEY_FILE = "PEFTU_STORE_KEY"  # the environment variable that names the file
NONCE, TAG = 12, 16  # bytes
OVERHEAD = NONCE + TAG
_DOMAIN, _KNOWN = b"peftu-sealed-rows-1", b"this key opens this store"


class Seal:
    """Closes and opens what lies in a store.

    Args:
        key: 32 bytes.

    Raises:
        PeftuError: the package that does it is not installed.
    """

    def __init__(self, key: bytes) -> None:
        try:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError:
            raise PeftuError(f"{KEY_FILE}: needs cryptography — pip install 'peftu[encrypt]'") from None
        self._cipher = AESGCM(key)

    def close(self, content: bytes | memoryview) -> bytes:
        """Returns content sealed: `OVERHEAD` bytes longer, and other bytes each time."""
        nonce = secrets.token_bytes(NONCE)
        return nonce + self._cipher.encrypt(nonce, bytes(content), _DOMAIN)

    def open(self, sealed: bytes) -> bytes:
        """Returns the content.

        Raises:
            ValueError: it was sealed with another key, or altered.
        """
        from cryptography.exceptions import InvalidTag

        try:
            return self._cipher.decrypt(sealed[:NONCE], sealed[NONCE:], _DOMAIN)
        except InvalidTag:
            raise ValueError("it was encrypted with another key, or altered") from None

    def mark(self) -> str:
        """Returns what is kept in a store, to know the key by."""
        return self.close(_KNOWN).hex()

    def fits(self, mark: str) -> bool:
        """Returns whether `mark` was made with this key."""
        try:
            return self.open(bytes.fromhex(mark)) == _KNOWN
        except ValueError:
            return False


def given_seal() -> Seal | None:
    """Returns the seal of the key file that the environment names; None: it names none.

    Raises:
        PeftuError: the file is missing, holds no key, or others may read it.
    """
    if not (name := os.environ.get(KEY_FILE)):
        return None
    path = Path(name).expanduser()
    try:
        mode, text = path.stat().st_mode, path.read_text(encoding="ascii").strip()
        key = bytes.fromhex(text)
    except (OSError, ValueError):
        key = b""
    if len(key) != 32:
        raise PeftuError(f"{KEY_FILE}: {path} holds no key — make one with 'peftu store key FILE'")
    if os.name == "posix" and mode & 0o077:
        raise PeftuError(f"{KEY_FILE}: {path} may be read by others — chmod 600 it")
    return Seal(key)


def make_key(path: Path) -> Path:
    """Returns the file that now holds a new key, as hexadecimal digits, its owner's alone.

    Raises:
        PeftuError: something is there already, or it cannot be written.
    """
    if path.exists():
        raise PeftuError(
            f"{path}: is there already — what is encrypted with a key is lost without it; choose a new file"
        )
    try:
        private_file(path).write_text(secrets.token_hex(32) + "\n", encoding="ascii")
    except OSError:
        raise PeftuError(f"{path}: cannot be written — choose a file in a folder that may be") from None
    return path
