"""Deletion: what is hidden already goes to the byte, as shards are rewritten and the index's log is folded."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from peftu.store.index import Index
from peftu.store.shards import SHARD_BYTES, Cell, GoneError, Shards

SMALL = 4  # a shard of less than this part of a full one is small
MANY = 16  # as many small shards are put together
MOST_NAMES = 1000  # in one statement

_Kept = tuple[int, str, int]  # rowid, shard and row of a module that stays


class Collector:
    """Rewrites shards: without deleted modules, and small ones together.

    Args:
        index: of the store.
        shards: of the store.
    """

    def __init__(self, index: Index, shards: Shards) -> None:
        self._index, self._shards = index, shards

    def collect(self) -> int:
        """Returns how many deleted modules went; see `AdapterStore.gc`."""
        self._shards.sweep()
        gone = sum(self._rewrite(names, width) for names, width in self._batches())
        with self._index.transaction():
            self._index.sql(
                "DELETE FROM provenance WHERE id NOT IN (SELECT provenance FROM modules WHERE provenance NOT NULL)"
            )
        self._index.fold()
        return gone

    def _batches(self) -> Iterator[tuple[list[str], int]]:
        """Yields names and width of shards that are rewritten together: about as much as fills one."""
        found = self._index.sql(
            "SELECT width, shard, sum(deleted IS NULL), sum(deleted IS NOT NULL) FROM modules"
            " JOIN collections ON collections.id = collection GROUP BY shard ORDER BY width, shard"
        ).fetchall()
        for width, shards in groupby(found, key=lambda shard: shard[0]):
            cell = self._shards.cell_size(width)
            sizes = [(name, cell * living, dead) for _, name, living, dead in shards]
            small = [name for name, size, dead in sizes if not dead and size < SHARD_BYTES // SMALL]
            merged = set(small) if len(small) >= MANY else set()
            names, filled = list[str](), 0
            for name, size, dead in sizes:
                if not dead and name not in merged:
                    continue
                if names and (filled + size > SHARD_BYTES or len(names) == MOST_NAMES):
                    yield names, width
                    names, filled = [], 0
                names.append(name)
                filled += size
            if names:
                yield names, width

    def _rewrite(self, names: Sequence[str], width: int) -> int:
        """Puts shards without their deleted modules in their place; returns how many modules went."""
        marks = ",".join("?" * len(names))
        while True:
            kept = self._living(names)
            try:
                with (
                    self._shards.written(len(kept), width, self._cells(kept)) as places,
                    self._index.transaction(),
                ):
                    if unchanged := self._living(names) == kept:  # else more are deleted, or another gc was faster
                        for (rowid, *_), place in zip(kept, places, strict=True):
                            self._index.sql("UPDATE modules SET shard = ?, row = ? WHERE rowid = ?", (*place, rowid))
                        query = f"DELETE FROM modules WHERE shard IN ({marks})"  # noqa: S608
                        gone = self._index.sql(query, tuple(names)).rowcount
            except GoneError:
                if self._living(names) == kept:
                    raise
                continue
            if unchanged:
                for name in names:
                    self._shards.discard(name)
                return gone

    def _living(self, names: Sequence[str]) -> list[_Kept]:
        """Returns the modules of shards that are not deleted, in the order of their rows."""
        marks = ",".join("?" * len(names))
        query = f"SELECT rowid, shard, row FROM modules WHERE shard IN ({marks}) AND deleted IS NULL"  # noqa: S608
        return self._index.sql(f"{query} ORDER BY shard, row", tuple(names)).fetchall()

    def _cells(self, kept: Sequence[_Kept]) -> Iterator[Cell]:
        """Yields modules as they lie in their shards: no key is needed to delete."""
        for name, modules in groupby(kept, key=lambda module: module[1]):
            yield from self._shards.read(name, [row for *_, row in modules])
