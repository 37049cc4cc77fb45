"""Damaged JSON, and which readers take a file for theirs."""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

from peftu.data.readers.file import unpacked
from peftu.data.readers.reader import readers


def claimants(path: Path) -> list[str]:
    """Returns the names of the readers of one tool's layout that claim a file."""
    with unpacked(path) as file:
        known = [(name, readers.get(name)) for name in readers.names()]
        return [name for name, reader in known if not reader.plain and reader.claims(file)]


def mutated(value: Any) -> Iterator[Any]:
    """Yields a JSON document once for each of its nodes and each other type in the node's place, or without it."""

    def nodes(node: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        yield path
        for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            yield from nodes(node[key], (*path, key))

    for *parents, last in (path for path in nodes(value, ()) if path):
        for other in (None, [], {}, 1, "x", ...):
            copy = deepcopy(value)
            parent = copy
            for key in parents:
                parent = parent[key]
            if other is ...:
                del parent[last]
            else:
                parent[last] = other
            yield copy
