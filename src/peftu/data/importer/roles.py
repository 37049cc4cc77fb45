"""Which column is what: as given, else by its name."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from peftu.data.readers.source import Source
from peftu.errors import PeftuError
from peftu.registry import did_you_mean

LISTED = 20
NEEDED = ("user", "text", "label")
GIVEN, BY_LAYOUT, BY_NAME = "as given", "as the layout says", "by its name"
# Usual names, the likelier first. A role takes a column that no earlier role has taken.
NAMES: dict[str, tuple[str, ...]] = {
    "user": (
        *("user", "user_id", "userid", "user_key", "annotator", "annotator_id", "annotatorid", "worker", "worker_id"),
        *("workerid", "rater", "rater_id", "author", "author_id", "username", "user_name", "screen_name", "account"),
        *("reviewer", "reviewer_id", "participant", "participant_id", "coder", "judge", "member", "person", "uid"),
    ),
    "item": (
        *("item", "item_id", "itemid", "text_id", "textid", "comment_id", "post_id", "tweet_id", "message_id"),
        *("document_id", "doc_id", "sentence_id", "review_id", "sample_id", "instance_id", "example_id", "id"),
    ),
    "text": (
        *("text", "texts", "comment", "comment_text", "tweet", "reply", "reply_text", "sentence", "message", "body"),
        *("content", "review", "review_text", "document", "utterance", "post", "post_text", "question", "prompt"),
        *("input", "title"),
    ),
    "label": (
        *("label", "labels", "annotation", "annotations", "rating", "score", "stars", "class", "category", "target"),
        *("answer", "judgement", "judgment", "vote", "sentiment", "emotion", "emotions", "toxicity", "y"),
    ),
    "context": ("context", "parent", "parent_text", "parent_comment", "post", "post_text", "previous", "conversation"),
    "time": ("time", "timestamp", "created_at", "created", "date", "datetime", "posted_at", "unix_time"),
    "split": ("split", "partition"),
    "meta": ("meta",),
}


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
    chosen = {role: known_column(source, column, f"--{role}") for role, column in columns.items() if column is not None}
    several = [part for column in labels for part in _divided(source, column)]
    chosen_labels = tuple(known_column(source, column, "--label") for column in several)
    taken = dict.fromkeys([*chosen, *(["label"] if chosen_labels else [])], GIVEN)
    every = [*chosen.values(), *chosen_labels]
    twice = sorted({column for column in every if every.count(column) > 1})
    if twice:
        raise PeftuError(f"{source.path}: column '{twice[0]}' is given twice — give each column one role")
    for role in (role for role in NAMES if role in source.roles and role not in taken):
        taken[role] = BY_LAYOUT
        chosen[role] = source.roles[role]
    chosen_labels = chosen_labels or tuple(filter(None, [chosen.pop("label", None)]))
    if source.questions and not chosen_labels:
        listed = ", ".join(source.questions[:LISTED])
        raise PeftuError(f"{source.path}: asks several questions ({listed}) — pass --label COLUMN for one of them")
    by_name = _by_name(source, [role for role in NAMES if role not in taken], [*chosen.values(), *chosen_labels])
    chosen |= {role: candidates[0] for role, candidates in by_name.items() if role != "label"}
    chosen_labels = chosen_labels or tuple(by_name.get("label", [])[:1])
    left = [column for column in source.columns if column not in (*chosen.values(), *chosen_labels)]
    if not chosen_labels and len(left) == 1 and {"user", "text"} <= set(chosen):
        chosen_labels = (left[0],)
    _complete(source, [role for role in NEEDED if role not in chosen and not (role == "label" and chosen_labels)])
    for column in [*chosen.values(), *chosen_labels]:
        if source.columns.count(column) > 1:
            raise PeftuError(f"{source.path}: two columns are called '{column}' — rename one")
    rivals = {role: tuple(name for name in by_name.get(role, [])[1:] if name in left) for role in NEEDED}
    return Roles(chosen, chosen_labels, taken, {role: names for role, names in rivals.items() if names})


def _by_name(source: Source, roles: Sequence[str], taken: Sequence[str]) -> dict[str, list[str]]:
    """Returns role -> columns that its usual names fit, the likelier first; the first fits no later role."""
    plain = {plain_name(column): column for column in reversed(source.columns)}
    fitting: dict[str, list[str]] = {}
    free = [column for column in source.columns if column not in taken]
    for role in roles:
        candidates = [plain[name] for name in NAMES[role] if name in plain and plain[name] in free]
        if candidates:
            fitting[role] = list(dict.fromkeys(candidates))
            free.remove(candidates[0])
    return fitting


def plain_name(column: str) -> str:
    """Returns 'user_id' for 'userId', 'User ID' and 'user-id'."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", column)
    return re.sub(r"[^a-z0-9]+", "_", parted.lower()).strip("_")


def _divided(source: Source, given: str) -> list[str]:
    return [given] if given in source.columns else [part.strip() for part in given.split(",") if part.strip()]


def find_columns(source: Source, columns: Mapping[str, str | None]) -> dict[str, str]:
    """Returns role -> column of a second table: as given, else by its name; optional is the context.

    Args:
        source: the table.
        columns: role -> the column given for it, or None.

    Raises:
        PeftuError: there is no such column, or none can be found for a role.
    """
    given = {role: known_column(source, column, f"--{role}") for role, column in columns.items() if column is not None}
    found = _by_name(source, [role for role in columns if role not in given], list(given.values()))
    chosen = given | {role: names[0] for role, names in found.items()}
    _complete(source, [role for role in columns if role not in chosen and role != "context"])
    return {role: chosen[role] for role in columns if role in chosen}


def known_column(source: Source, column: str, option: str) -> str:
    """Returns the column after making sure that it is there.

    Raises:
        PeftuError: it is not; the message names the option.
    """
    if column in source.columns:
        return column
    if _header_is_data(source):
        raise PeftuError(_headless(source))
    shown = source.columns if len(source.columns) <= LISTED else (*source.columns[:LISTED], "…")
    raise PeftuError(f"{source.path}: {option}: has no column '{column}'{did_you_mean(column, shown)}")


def _complete(source: Source, missing: Sequence[str]) -> None:
    if not missing:
        return
    if _header_is_data(source):
        raise PeftuError(_headless(source))
    shown = ", ".join(source.columns[:LISTED]) + (", …" if len(source.columns) > LISTED else "")
    listed = " and which the ".join(missing)
    options = " ".join(f"--{role} COLUMN" for role in missing)
    raise PeftuError(f"{source.path}: cannot tell which column is the {listed} (columns: {shown}) — pass {options}")


def _header_is_data(source: Source) -> bool:
    """Returns whether a header cell stands below itself too, or is a number: then it is no name, and never shown."""
    below = [{row[place] for row in source.head if len(row) > place} for place in range(len(source.columns))]
    return any(
        name in cells or re.fullmatch(r"-?\d+(\.\d+)?", name) for name, cells in zip(source.columns, below, strict=True)
    )


def _headless(source: Source) -> str:
    return f"{source.path}: its first line looks like data, not like column names — add a line with names"
