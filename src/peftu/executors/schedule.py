"""The driver: has missing cells filled, in the order of their needs, and commits them as they come.

A task that failed is tried again elsewhere, then halved until the user who breaks it is alone; they are scored without
anything trained for them. Where no quarter of a shard can be filled, it is not for a user's sake, and the shard failed.
"""

import dataclasses
import shutil
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from peftu.cells.cache import Cells, StoredCell
from peftu.cells.spec import CellSpec
from peftu.data.shards import part_of
from peftu.data.sources import no_space
from peftu.executors.executor import Executor, Failure, Filled, Outcome, Task

QUARTER = 2  # halvings of a shard


class OutOfTimeError(Exception):
    """The time for filling cells is over and some are left.

    Attributes:
        done: cells that are there.
        left: cells that are not.
    """

    def __init__(self, done: int, left: int) -> None:
        super().__init__(f"{left} of {done + left} cells are left")
        self.done, self.left = done, left


@dataclass
class Filling:
    """What became of a wanted cell.

    Attributes:
        pieces: cells that make it up, one where it was filled whole; None beside a user who could not even be scored.
        failure: why there is none.
        broken: users for whom the method could not be fitted.
        cause: why it could not be fitted for the last of them.
    """

    pieces: list[tuple[CellSpec, StoredCell | None]] = field(default_factory=list)
    failure: Failure | None = None
    broken: int = 0
    cause: Failure | None = None

    @property
    def filled(self) -> bool:
        """Returns whether it is there, perhaps in pieces."""
        return self.failure is None


@dataclass(frozen=True)
class _Piece:
    spec: CellSpec
    wanted: str
    halvings: int = 0
    attempts: int = 0


class Driver:
    """Fills cells through an executor.

    Args:
        cells: where they lie.
        executor: has them filled.
        tell: called with every cell as it is there, and whether it was there before.
        deadline: `time.monotonic` after which nothing new is begun; None: no end.
    """

    def __init__(
        self,
        cells: Cells,
        executor: Executor,
        tell: Callable[[CellSpec, StoredCell, bool], None] = lambda *_: None,
        deadline: float | None = None,
    ) -> None:
        self.cells, self.executor, self.tell, self.deadline = cells, executor, tell, deadline
        self.fillings: dict[str, Filling] = {}
        self._pending: deque[_Piece] = deque()
        self._flying: dict[Path, _Piece] = {}
        self._failed_quarters: dict[str, list[tuple[_Piece, Failure]]] = {}

    @property
    def left(self) -> list[CellSpec]:
        """Returns the cells that are yet to be filled."""
        return [piece.spec for piece in (*self._pending, *self._flying.values())]

    def want(self, wanted: Iterable[CellSpec]) -> None:
        """Looks for cells and for those they need, and puts in line what is missing."""
        for spec in wanted:
            self._want(spec)

    def fill(self, wanted: Iterable[CellSpec]) -> dict[str, Filling]:
        """Returns what became of every wanted cell and of those they need, by name.

        Raises:
            OutOfTimeError: the deadline has passed before all were there; those that are stay.
            PeftuError: cells cannot be written.
        """
        self.want(wanted)
        if not self._pending:  # a folder that can only be read will do
            return self.fillings
        with self.cells.parts() as parts:
            while self._pending or self._flying:
                self._submit(parts)
                if not self._flying:
                    if self._pending:
                        raise OutOfTimeError(sum(map(bool, self._done())), len(self._pending))
                    break
                task, outcome = self.executor.next()
                self._end(self._flying.pop(task.part), task, outcome)
        return self.fillings

    def _done(self) -> list[Filling]:
        return [filling for filling in self.fillings.values() if filling.pieces]

    def _want(self, spec: CellSpec, needed: bool = True) -> None:
        """Puts a cell in line behind those it needs, unless it is there; one not needed is only looked for."""
        if spec.name in self.fillings:
            return
        stored = self.cells.find(spec.name)
        if stored is None and not needed:
            return
        self.fillings[spec.name] = Filling()
        for need in spec.needs:
            self._want(need, stored is None)
        self._place(_Piece(spec, spec.name), stored)

    def _submit(self, parts: Path) -> None:
        """Submits what can be begun, while slots are free and time is left."""
        for _ in range(len(self._pending)):
            if len(self._flying) >= self.executor.slots or self._late():
                return
            piece = self._pending.popleft()
            needs = [self.fillings[need.name] for need in piece.spec.needs]
            if failed := next((need.failure for need in needs if need.failure), None):
                self.fillings[piece.wanted].failure = failed
            elif self.fillings[piece.wanted].failure is not None:
                continue  # given up
            elif all(need.pieces for need in needs):
                part = parts / uuid.uuid4().hex
                part.mkdir(mode=0o700)
                folders = {spec.name: cell.folder for need in needs for spec, cell in need.pieces if cell is not None}
                self._flying[part] = piece
                self.executor.submit(Task(piece.spec, folders, part))
            else:
                self._pending.append(piece)

    def _late(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline

    def _end(self, piece: _Piece, task: Task, outcome: Outcome) -> None:
        if isinstance(outcome, Filled):
            self._take(piece, self.cells.commit(piece.spec.name, task.part, outcome.about), False)
            return
        shutil.rmtree(task.part, ignore_errors=True)
        if outcome.kind == "full":
            raise no_space(self.cells.folder, "--cells")
        filling, spec = self.fillings[piece.wanted], piece.spec
        if filling.failure is not None:
            return
        if self.executor.elsewhere and outcome.kind != "input" and not piece.attempts:
            self._pending.append(dataclasses.replace(piece, attempts=1))
            return
        if spec.part == "without":
            self._add(piece, None)
        elif outcome.kind == "input" or not spec.divisible:
            filling.failure = outcome
        elif piece.halvings == QUARTER and not filling.pieces:
            # Whether to go on is known once another quarter is filled or none is left, whichever comes first elsewhere.
            self._failed_quarters.setdefault(piece.wanted, []).append((piece, outcome))
            if all(other.wanted != piece.wanted for other in (*self._pending, *self._flying.values())):
                filling.failure = outcome
        else:
            self._halve(piece, outcome)

    def _halve(self, piece: _Piece, failure: Failure) -> None:
        """Puts the halves of a piece that failed in line; a user alone is scored without what could not be fitted."""
        spec, filling = piece.spec, self.fillings[piece.wanted]
        if len(spec.users) > 1:
            middle = len(spec.users) // 2
            parts = (part_of(spec.problem, half) for half in (spec.users[:middle], spec.users[middle:]))
            smaller = [dataclasses.replace(spec, problem=part) for part in parts]
        else:
            filling.broken, filling.cause = filling.broken + 1, failure
            smaller = [dataclasses.replace(spec, part="without")]
        for part in (_Piece(spec, piece.wanted, piece.halvings + 1) for spec in smaller):
            self._place(part, self.cells.find(part.spec.name))

    def _place(self, piece: _Piece, stored: StoredCell | None) -> None:
        """Takes a piece that is there already, and puts one in line that is not."""
        if stored is not None:
            self._take(piece, stored, True)
        else:
            self._pending.append(piece)

    def _take(self, piece: _Piece, stored: StoredCell, before: bool) -> None:
        self._add(piece, stored)
        self.tell(piece.spec, stored, before)

    def _add(self, piece: _Piece, stored: StoredCell | None) -> None:
        self.fillings[piece.wanted].pieces.append((piece.spec, stored))
        for failed in self._failed_quarters.pop(piece.wanted, ()):
            self._halve(*failed)
