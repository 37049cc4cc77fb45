"""Users dealt into shards that work is done in, and the part of a problem that is a shard's."""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from peftu.data.problem import Problem
from peftu.data.stratify import hashed

FEWEST, MOST, MEAN = 64, 256, 128  # users in a shard; MEAN beyond the fewest


def shards(users: Sequence[str]) -> list[tuple[str, ...]]:
    """Returns the users in shards of 64 to 256, the last one perhaps smaller; all in one where they are few.

    Users stand in an order drawn by hash, and a shard ends at users drawn by hash: another user changes the shard that
    they come to and leaves the others as they are (content-defined chunking; Muthitacharoen et al., 2001).
    """
    dealt: list[tuple[str, ...]] = []
    shard: list[str] = []
    for user in sorted(users, key=lambda key: (hashed("shard", key), key)):
        shard.append(user)
        if len(shard) == MOST or (len(shard) >= FEWEST and hashed("end of a shard", user) % MEAN == 0):
            dealt.append(tuple(sorted(shard)))
            shard = []
    if shard or not dealt:
        dealt.append(tuple(sorted(shard)))
    return dealt


def part_of(problem: Problem, users: Sequence[str]) -> Problem:
    """Returns the part of a problem that is these users', rows and texts in the problem's order.

    Args:
        problem: a task after its split.
        users: some of its users, sorted.
    """
    if tuple(users) == problem.users:
        return problem
    number = {user: place for place, user in enumerate(problem.users)}
    chosen = np.array([number[user] for user in users], dtype=np.int64)
    part = with_rows(problem, np.flatnonzero(np.isin(problem.user, chosen)))
    return dataclasses.replace(
        part, users=tuple(users), user=np.searchsorted(chosen, part.user).astype(problem.user.dtype)
    )


def with_rows(problem: Problem, rows: npt.NDArray[np.int64]) -> Problem:
    """Returns a problem with some of its rows, sorted, their texts, and all its users."""
    texts, text = np.unique(problem.text[rows], return_inverse=True)
    return dataclasses.replace(
        problem,
        texts=tuple(problem.texts[place] for place in texts),
        item_ids=tuple(problem.item_ids[row] for row in rows),
        user=problem.user[rows],
        text=text.astype(problem.text.dtype),
        part=problem.part[rows],
        target=problem.target[rows],
        answers=tuple(problem.answers[row] for row in rows) if problem.answers else (),
    )


def digest_of(problem: Problem) -> str:
    """Returns 'sha256:…' over everything in a problem that a fit or a score may depend on, and over who it is about."""
    digest = hashlib.sha256()

    def add(*words: str | None) -> None:
        for word in words:
            data = b"\0" if word is None else word.encode(errors="surrogatepass")
            digest.update(f"{len(data) if word is not None else -1} ".encode() + data)

    card = problem.card
    add(card.name, card.kind, card.instruction, card.about, *card.labels, *(card.verbalisations if card.labels else ()))
    add(str(len(problem.users)), *problem.users, str(len(problem.texts)))
    for text in problem.texts:
        add(*text)
    add(*problem.item_ids, *problem.answers)
    for array in (problem.user, problem.text, problem.part, problem.target):
        digest.update(f"{array.shape} {array.dtype} ".encode() + np.ascontiguousarray(array).tobytes())
    return f"sha256:{digest.hexdigest()}"
