"""Shards rewritten: without what is deleted, so that it goes to the byte, small ones together, or in another form."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import torch

from peftu.store.index import Index
from peftu.store.reading import Place, fill
from peftu.store.shards import NUMBER, SHARD_BYTES, Cell, Form, GoneError, Shards, checksum, stretches

SMALL = 4  # a shard of less than this part of a full one is small
MANY = 16  # as many small shards are put together
MOST_NAMES = 1000  # in one statement

_Kept = tuple[int, Place]  # rowid of a module that stays, and where it is


class _Shard(NamedTuple):
    """A shard as the index knows it."""

    name: str
    width: int
    living: int
    dead: int


class Collector:
    """Rewrites shards.

    Args:
        index: of the store.
        shards: of the store.
    """

    def __init__(self, index: Index, shards: Shards) -> None:
        self._index, self._shards = index, shards

    def collect(self) -> int:
        """Returns how many deleted modules went; see `AdapterStore.gc`."""
        self._shards.sweep()
        gone = 0
        for shards in self._by_width():
            small = {shard.name for shard in shards if not shard.dead and self._size(shard) < SHARD_BYTES // SMALL}
            merged = small if len(small) >= MANY else set()
            chosen = [shard for shard in shards if shard.dead or shard.name in merged]
            by_form = sorted((form, shard) for shard in chosen if (form := self._form(shard)))
            for form, group in groupby(by_form, key=lambda one: one[0]):
                for batch in self._batches([shard for _, shard in group]):
                    if len(batch) > 1 or batch[0].dead:
                        gone += self._rewrite(batch, form)
        self._tidy()
        return gone

    def settle(self) -> int:
        """Returns how many modules were written anew, into the place and form that the store is set to."""
        settled = 0
        for shards in self._by_width():
            chosen = [s for s in shards if (form := self._form(s)) and not self._shards.settled(s.name, form, s.width)]
            for batch in self._batches(chosen):
                settled += sum(shard.living for shard in batch)
                self._rewrite(batch, self._shards.form(batch[0].width))
        self._tidy()
        return settled

    def _tidy(self) -> None:
        with self._index.transaction():
            self._index.sql(
                "DELETE FROM provenance WHERE id NOT IN (SELECT provenance FROM modules WHERE provenance NOT NULL)"
            )
        self._index.fold()

    def _by_width(self) -> Iterator[list[_Shard]]:
        found = self._index.sql(
            "SELECT shard, width, sum(deleted IS NULL), sum(deleted IS NOT NULL) FROM modules"
            " JOIN collections ON collections.id = collection GROUP BY shard ORDER BY width, shard"
        ).fetchall()
        for _, shards in groupby((_Shard(*row) for row in found), key=lambda shard: shard.width):
            yield list(shards)

    def _size(self, shard: _Shard) -> int:
        """Returns the bytes of what stays of a shard, as it would be written now."""
        return self._shards.form(shard.width).size * shard.living

    def _form(self, shard: _Shard) -> Form | None:
        """Returns how a shard's rows lie in it; None: another process has rewritten it."""
        try:
            return self._shards.form_of(shard.name)
        except GoneError:
            if self._shards.known(shard.name):
                raise
            return None

    def _batches(self, shards: Sequence[_Shard]) -> Iterator[list[_Shard]]:
        """Yields shards that are rewritten together: about as much as fills one."""
        batch, filled = list[_Shard](), 0
        for shard in shards:
            size = self._size(shard)
            if batch and (filled + size > SHARD_BYTES or len(batch) == MOST_NAMES):
                yield batch
                batch, filled = [], 0
            batch.append(shard)
            filled += size
        if batch:
            yield batch

    def _rewrite(self, batch: Sequence[_Shard], form: Form) -> int:
        """Puts shards of a form, without their deleted modules, in their place; returns how many modules went."""
        names, width = [shard.name for shard in batch], batch[0].width
        marks = ",".join("?" * len(names))
        while True:
            kept, sums = self._living(names), dict[int, str]()
            try:
                with (
                    self._shards.written(len(kept), form, self._cells(kept, form, width, sums)) as places,
                    self._index.transaction(),
                ):
                    if unchanged := self._living(names) == kept:  # else more are deleted, or another gc was faster
                        for (rowid, old), place in zip(kept, places, strict=True):
                            values = (*place, sums.get(rowid, old.checksum), rowid)
                            self._index.sql(
                                "UPDATE modules SET shard = ?, row = ?, checksum = ? WHERE rowid = ?", values
                            )
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
        query = f"SELECT rowid, shard, row, checksum FROM modules WHERE shard IN ({marks}) AND deleted IS NULL"  # noqa: S608
        found = self._index.sql(f"{query} ORDER BY shard, row", tuple(names))
        return [(rowid, Place(*place)) for rowid, *place in found]

    def _cells(self, kept: Sequence[_Kept], form: Form, width: int, sums: dict[int, str]) -> Iterator[Cell]:
        """Yields modules as they lie in their shards, for which no key is needed, or in another form.

        Checksums of those whose numbers have another one then are put into ``sums``.
        """
        for name, modules in groupby(kept, key=lambda module: module[1].shard):
            of_shard = {place.row: (rowid, place) for rowid, place in modules}
            if self._shards.form_of(name) == form:
                yield from self._shards.read(name, list(of_shard))
                continue
            for first, last in stretches(of_shard, NUMBER * width):
                part = [of_shard[row] for row in range(first, last)]
                rows = torch.empty(len(part), width)
                fill(self._shards, rows, [place for _, place in part], name)
                rows, cells = self._shards.as_kept(rows, form)
                sums.update({rowid: checksum(row) for (rowid, _), row in zip(part, rows, strict=True)})
                yield from cells
