"""Which column of a table is what: as given, as the layout says, else by its name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from peftu.data.readers.columns import LISTED, NAMES, find_columns, known_column
from peftu.data.readers.source import Source
from peftu.errors import PeftuError

NEEDED = ("user", "text", "label")


@dataclass(frozen=True)
class Roles:
    """Which column is what.

    Attributes:
        column: role -> column, for roles with one column.
        labels: the label columns; several mark one label each.
        taken: role -> why its column was taken, where that is not its name.
        rivals: role -> other columns that could be it by their names.
        about: columns of what is known of the users.
    """

    column: dict[str, str]
    labels: tuple[str, ...]
    taken: Mapping[str, str] = field(default_factory=dict)
    rivals: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    about: tuple[str, ...] = ()

    @property
    def given(self) -> frozenset[str]:
        """Returns the roles whose column is known, rather than found by its name."""
        return frozenset(self.taken)

    @property
    def columns(self) -> tuple[str, ...]:
        """Returns every column that is read."""
        rivals = [column for columns in self.rivals.values() for column in columns]
        return tuple(dict.fromkeys([*self.column.values(), *self.labels, *rivals, *self.about]))

    def without(self, role: str) -> "Roles":
        """Returns the roles but for one."""
        return replace(self, column={name: column for name, column in self.column.items() if name != role})


def find_roles(source: Source, columns: Mapping[str, str | None], labels: Sequence[str] = ()) -> Roles:
    """Returns the roles of a file's columns.

    Args:
        source: the file.
        columns: role -> the column given for it, or None.
        labels: the label columns given; commas may stand between several.

    Raises:
        PeftuError: a column that is not there, stands twice, has two roles, or cannot be found for a role.
    """
    several = [known_column(source, part, "--label", NAMES) for column in labels for part in _divided(source, column)]
    given = {role: column for role, column in columns.items() if column is not None}
    given |= {("label" if not place else f"label {place + 1}"): column for place, column in enumerate(several)}
    if source.questions and not several and "label" not in source.roles:
        listed = ", ".join(source.questions[:LISTED])
        raise PeftuError(f"{source.path}: asks several questions ({listed}) — pass --label COLUMN for one of them")
    role_columns = find_columns(source, NAMES, given, NEEDED, NEEDED)
    label_columns = tuple(column for role, column in role_columns.chosen.items() if role.startswith("label"))
    others = {role: column for role, column in role_columns.chosen.items() if not role.startswith("label")}
    return Roles(others, label_columns, role_columns.taken, role_columns.rivals)


def _divided(source: Source, given: str) -> list[str]:
    return [given] if given in source.columns else [part.strip() for part in given.split(",") if part.strip()]
