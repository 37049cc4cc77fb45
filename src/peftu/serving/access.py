"""Who may ask what: bearer tokens from a file, which holds their sha256 and never themselves."""

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from peftu.errors import PeftuError
from peftu.outside import parse_json, plain_file
from peftu.serving.problems import RefusedError

Scope = Literal["read", "write", "admin"]
EVERY: frozenset[Scope] = frozenset(("read", "write", "admin"))
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Token(BaseModel):
    """A token of the file.

    Attributes:
        name: what the log calls whoever has it.
        sha256: of the token, in hex.
        scopes: read (predict, rank, write answers, look), write (enrol), admin (delete anybody, metrics).
        users: whom alone it may ask about, change and delete; None: everybody.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, StringConstraints(pattern=r"^[\w.-]{1,64}$")]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    scopes: frozenset[Scope] = Field(min_length=1)
    users: frozenset[str] | None = None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    tokens: list[Token] = Field(min_length=1)


@dataclass(frozen=True)
class Caller:
    """Whoever asks.

    Attributes:
        name: of the token.
        scopes: what they may do.
        users: with whom alone; None: with everybody.
    """

    name: str
    scopes: frozenset[Scope]
    users: frozenset[str] | None = None

    def check(self, scope: Scope, users: Iterable[str] = ()) -> None:
        """Checks that they may do this with these users.

        Raises:
            RefusedError: they may not.
        """
        if scope not in self.scopes:
            raise RefusedError(403, f"this token has no scope '{scope}' — use one that has")
        if self.users is not None and not self.users.issuperset(users):
            raise RefusedError(403, "this token is bound to other users — ask for its own")


class Access:
    """The tokens that are known.

    Args:
        tokens: of the file; None: everybody may do everything, which only this machine can.
    """

    def __init__(self, tokens: Iterable[Token] | None = None) -> None:
        self.tokens = None if tokens is None else tuple(tokens)

    @property
    def off(self) -> bool:
        """Returns whether nobody is asked for a token."""
        return self.tokens is None

    def caller(self, authorization: str | None, host: str) -> Caller:
        """Returns whoever asks.

        Args:
            authorization: the header.
            host: that was asked, from the header; without tokens a page of another site must not ask through a browser.

        Raises:
            RefusedError: no token, or none that is known.
        """
        if self.tokens is None:
            if host_name(host) not in LOOPBACK:
                raise RefusedError(403, "without tokens only this machine is answered — ask for localhost")
            return Caller("local", EVERY)
        kind, _, token = (authorization or "").partition(" ")
        digest = hashlib.sha256(token.strip().encode("utf-8", "replace")).hexdigest()
        # Each is compared, in constant time: how long it takes says nothing of which one is near.
        matching = [known for known in self.tokens if hmac.compare_digest(known.sha256, digest)]
        if kind.lower() != "bearer" or not matching:
            raise RefusedError(401, "no valid bearer token — pass 'Authorization: Bearer TOKEN'")
        return Caller(matching[0].name, matching[0].scopes, matching[0].users)


def host_name(host: str) -> str:
    """Returns the name in a Host header, without its port."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def read_tokens(path: Path) -> list[Token]:
    """Returns the tokens of a JSON file: ``{"tokens": [{"name", "sha256", "scopes", "users"}]}``.

    Raises:
        PeftuError: no such file, or it is not one of tokens.
    """
    try:
        content = parse_json(plain_file(path).read_bytes())
    except OSError:
        raise PeftuError(f"{path}: no such file that can be read — pass a JSON file with tokens") from None
    except ValueError:
        raise PeftuError(f'{path}: is no JSON — write {{"tokens": [{{"name", "sha256", "scopes"}}]}}') from None
    if not isinstance(content, dict):
        raise PeftuError(f'{path}: is no object — write {{"tokens": [{{"name", "sha256", "scopes"}}]}}')
    try:
        return _File(**content).tokens
    except ValidationError as error:  # what stands there may be a token: it is not shown
        first = error.errors(include_input=False)[0]
        raise PeftuError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']} — see docs/serving.md") from None
