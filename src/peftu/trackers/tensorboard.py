"""TensorBoard: scalars in event files of a local folder."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from peftu.config import RunSpec
from peftu.data.sources import writing_to
from peftu.results import MethodResult
from peftu.trackers.tracker import CellNews, board_numbers, need_package

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard:
    """Writes to ``FOLDER/<task>-<id>``: 'number/method@base, seed N' over users, 'board number/method@base' at the end.

    Args:
        where: the folder.

    Raises:
        PeftuError: TensorBoard is not installed.
    """

    def __init__(self, where: str) -> None:
        need_package("tensorboard", "tensorboard")
        self.folder = Path(where)
        self._users: Counter[str] = Counter()
        self._writer: SummaryWriter | None = None

    def started(self, run: RunSpec) -> None:
        """Begins an event file; what an earlier start of the same run drew gives way.

        Raises:
            PeftuError: the folder cannot be written.
        """
        from torch.utils.tensorboard import SummaryWriter

        folder = self.folder / f"{run.task}-{run.run_id}"
        with writing_to(folder):
            self._writer = SummaryWriter(str(folder), purge_step=0)
        self._writer.add_text("run", f"`{run.canonical()}`")
        self._writer.flush()

    def cell(self, cell: CellNews) -> None:
        """Draws a cell at the number of users that its method and seed have by now."""
        self._users[cell.system] += cell.users
        self._draw({f"{key}/{cell.system}": number for key, number in cell.numbers().items()}, self._users[cell.system])

    def finished(self, leaderboard: Sequence[MethodResult]) -> None:
        """Draws the leaderboard and ends the file."""
        for result in leaderboard:
            numbers = {f"board {key}/{result.label}": number for key, number in board_numbers(result).items()}
            self._draw(numbers, 0)
        self.stopped()

    def stopped(self) -> None:
        """Ends the file."""
        if self._writer is not None:
            self._writer.close()

    def _draw(self, numbers: dict[str, float], step: int) -> None:
        if self._writer is None:
            return
        for tag, number in numbers.items():
            self._writer.add_scalar(tag, number, step)
        self._writer.flush()
