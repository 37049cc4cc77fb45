"""A command's result as tables for people."""

from typing import Any

from rich.table import Column, Table

Result = dict[str, Any]
SHOWN_USERS = 10


def stats_tables(result: Result) -> list[Table]:
    """Returns what ``stats`` returns as tables for people: of the users only those who disagree most."""
    measures = [name for name in ("disagreement", "label_distance") if name in result]
    kinds = [name for name in result[measures[0]] if name != "histogram"] if measures else []
    spread = [{"": kind, **{name: result[name][kind] for name in measures}} for kind in kinds]
    order = sorted(result["user_differences"], key=lambda user: -(user["disagreement"] or 0))
    shown = {key: value for key, value in result.items() if key not in (*measures, "user_differences")}
    title = f"users who disagree most ({min(SHOWN_USERS, len(order))} of {len(order):,})"
    return tables({**shown, "how much users differ from the others": spread, title: order[:SHOWN_USERS]})


def tables(result: Result | list[Result]) -> list[Table]:
    """Returns a command's result as tables for people: one of plain facts, one for each list of objects."""
    if isinstance(result, list):
        return [_grid("", result)] if result else []
    facts = Table("", Column(overflow="fold"), show_header=False, box=None)
    lists: list[Table] = []
    for key, value in result.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            lists.append(_grid(key, value))
        elif value is not None and value not in ({}, []):
            facts.add_row(key.replace("_", " "), _cell(value))
    return [facts, *lists]


def _grid(title: str, rows: list[Result]) -> Table:
    columns = (Column(key.replace("_", " "), overflow="fold") for key in rows[0])
    grid = Table(*columns, title=title or None, title_justify="left")
    for row in rows:
        grid.add_row(*(_cell(value) for value in row.values()))
    return grid


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_cell(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_cell, value))
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 100 else f"{value:,.2f}"
    return "" if value is None else str(value)
