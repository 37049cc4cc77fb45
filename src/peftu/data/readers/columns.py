"""Which column is what: as given, as the layout says, else by its usual names."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from peftu.data.readers.source import Source
from peftu.errors import PeftuError
from peftu.outside import is_plain
from peftu.registry import did_you_mean

LISTED = 20
LONGEST_NAME = 200
GIVEN, BY_LAYOUT, BY_NAME = "as given", "as the layout says", "by its name"
Names = Mapping[str, Sequence[str]]  # role -> usual names of its column, the likelier first
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
class Columns:
    """Which column is what.

    Attributes:
        chosen: role -> column.
        taken: role -> why, where that is not its name.
        rivals: role -> other columns that could be it by their names, and are nothing else.
    """

    chosen: dict[str, str]
    taken: dict[str, str]
    rivals: dict[str, tuple[str, ...]]


def find_columns(
    source: Source, names: Names, given: Mapping[str, str], needed: Sequence[str], unique: Sequence[str]
) -> Columns:
    """Returns the roles of a file's columns.

    Args:
        source: the file.
        names: of each role, in the order in which they choose; a column that is taken is free for no later role.
        given: role -> the column asked for.
        needed: roles that must have a column.
        unique: roles whose other candidates are named.

    Raises:
        PeftuError: a column that is not there, has two roles, stands twice, or cannot be found for a role.
    """
    chosen = {role: known_column(source, column, f"--{role}", names) for role, column in given.items()}
    twice = sorted({column for column in chosen.values() if list(chosen.values()).count(column) > 1})
    if twice:
        raise PeftuError(f"{source.path}: column '{twice[0]}' is given twice — give each column one role")
    taken = dict.fromkeys(chosen, GIVEN)
    for role in names:
        if role in source.roles and role not in taken:
            taken[role], chosen[role] = BY_LAYOUT, source.roles[role]
    by_name = _by_name(source, [role for role in names if role not in taken], list(chosen.values()), names)
    chosen |= {role: candidates[0] for role, candidates in by_name.items()}
    left = [column for column in source.columns if column.strip() and column not in chosen.values()]
    missing = [role for role in needed if role not in chosen]
    if missing == list(needed[-1:]) and len(left) == 1:  # what is left over is what is missing
        chosen[missing.pop()] = left.pop()
    _refuse_missing(source, missing, names, needed)
    for role, column in chosen.items():
        if not is_plain(column):
            raise PeftuError(f"{source.path}: the name of the column for '{role}' holds a break — write it on one line")
    check_names(source, chosen.values())
    rivals = {role: tuple(name for name in by_name.get(role, [])[1:] if name in left) for role in unique}
    return Columns(chosen, taken, {role: others for role, others in rivals.items() if others})


def check_names(source: Source, columns: Iterable[str]) -> None:
    """Checks that no other column has the name of one of these.

    Raises:
        PeftuError: two are called so.
    """
    doubled = next((column for column in columns if source.columns.count(column) > 1), None)
    if doubled is not None:
        raise PeftuError(f"{source.path}: two columns are called '{doubled}' — rename one")


def known_column(source: Source, column: str, option: str, names: Names) -> str:
    """Returns the column if there is one of that name.

    Raises:
        PeftuError: there is none; columns are named only where they have names.
    """
    if column in source.columns:
        return column
    if not has_names(source, names):
        raise PeftuError(_headless(source, [option.removeprefix("--")]))
    shown = source.columns if len(source.columns) <= LISTED else (*source.columns[:LISTED], "…")
    raise PeftuError(f"{source.path}: {option}: has no column '{column}'{did_you_mean(column, shown)}")


def check_rivals(raw: pl.DataFrame, chosen: Mapping[str, str], rivals: Mapping[str, Sequence[str]]) -> list[str]:
    """Returns a remark on each column that could be a role as well, and holds the same by other names.

    Raises:
        PeftuError: one holds something else, so that the role must be asked for.
    """
    notes = []
    for role, others in rivals.items():
        column = chosen[role]
        for other in others:
            pairs = raw.select(pl.col(column, other).hash())
            if not pairs.n_unique() == pairs[column].n_unique() == pairs[other].n_unique():
                options = f"--{role} {column} or --{role} {other}"
                raise PeftuError(
                    f"columns '{column}' and '{other}' could both be the {role} and differ — pass {options}"
                )
            notes.append(f"column '{column}' is the {role}; '{other}' says the same")
    return notes


def plain_name(column: str) -> str:
    """Returns 'user_id' for 'userId', 'User ID' and 'user-id'."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", column)
    return re.sub(r"[^a-z0-9]+", "_", parted.lower()).strip("_")


def has_names(source: Source, names: Names) -> bool:
    """Returns whether the columns have names, which may be shown: some are usual, and none is what stands below it.

    Where a file has no header, or objects are kept by user, users' keys stand in the names' place.
    """
    usual = {name for role_names in names.values() for name in role_names}
    named = source.named or source.roles or any(plain_name(column) in usual for column in source.columns)
    return bool(named) and not _header_is_data(source)


def _by_name(source: Source, roles: Sequence[str], taken: Sequence[str], names: Names) -> dict[str, list[str]]:
    plain = {plain_name(column): column for column in reversed(source.columns)}
    fitting: dict[str, list[str]] = {}
    free = [column for column in source.columns if column not in taken]
    for role in roles:
        candidates = [plain[name] for name in names[role] if name in plain and plain[name] in free]
        if candidates:
            fitting[role] = list(dict.fromkeys(candidates))
            free.remove(candidates[0])
    return fitting


def _refuse_missing(source: Source, missing: Sequence[str], names: Names, needed: Sequence[str]) -> None:
    if not missing:
        return
    if not has_names(source, names):
        raise PeftuError(_headless(source, needed))
    shown = ", ".join(source.columns[:LISTED]) + (", …" if len(source.columns) > LISTED else "")
    listed = " and which the ".join(missing)
    options = " ".join(f"--{role} COLUMN" for role in missing)
    options += ", or --join FILE --on COLUMN if it stands in another file" if "text" in missing else ""
    raise PeftuError(f"{source.path}: cannot tell which column is the {listed} (columns: {shown}) — pass {options}")


def _header_is_data(source: Source) -> bool:
    """Returns whether a header cell stands below itself too, is a number, or no name: too long, or with a break."""
    if any(len(name) > LONGEST_NAME or not is_plain(name) for name in source.columns):
        return True
    below = [{row[place] for row in source.head if len(row) > place} for place in range(len(source.columns))]
    return any(
        name in cells or re.fullmatch(r"-?\d+(\.\d+)?", name) for name, cells in zip(source.columns, below, strict=True)
    )


def _headless(source: Source, roles: Sequence[str]) -> str:
    if _header_is_data(source):
        return f"{source.path}: its first line looks like data, not like column names — add a line with names"
    options = " ".join(f"--{role} COLUMN" for role in roles)
    return f"{source.path}: no column has a usual name — add a first line with names, or pass {options}"
