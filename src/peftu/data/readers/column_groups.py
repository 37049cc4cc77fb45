"""Tables in which several columns belong together, and begin alike."""

from typing import ClassVar

from peftu.data.readers.columns import check_names
from peftu.data.readers.file import File
from peftu.data.readers.source import Source

FEWEST = 2  # columns that make it this layout


class ColumnGroups:
    """A table in which columns that begin alike belong together."""

    prefixes: ClassVar[tuple[str, ...]]

    def columns(self, file: File) -> dict[str, str]:
        """Returns what stands after the beginning -> its column."""
        for prefix in self.prefixes:
            columns = {name.removeprefix(prefix): name for name in sorted(file.keys()) if name.startswith(prefix)}
            if len(columns) >= FEWEST and "" not in columns:
                return columns
        return {}

    def table(self, file: File) -> Source:
        """Returns the table as it stands.

        Raises:
            PeftuError: a column stands twice.
        """
        from peftu.data.readers.reader import claiming

        source = claiming(file, plain=True)[0].open(file)
        check_names(source, source.columns)
        return source
