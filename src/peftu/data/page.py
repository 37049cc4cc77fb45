"""The page on all tasks, written from their cards: ``python -m peftu.data.page > docs/tasks.md``."""

import sys
from typing import Any

from peftu.data.load import option_choices
from peftu.data.task import SourceFile, Task, TaskCard, tasks

HOME = "peftu.data.tasks."
INTRO = """# Tasks

<!-- Written by `python -m peftu.data.page > docs/tasks.md` from the cards in `src/peftu/data/tasks/`; edit those. -->

A task is a published data set in which one person's judgements, or texts, can be told from another's. `peftu` ships
no data: `peftu data fetch TASK` gets a publisher's files, checked by sha256 where the card knows it, and `--raw FOLDER`
reads files that you have.

* **read from**: *fetched* where the publisher's address is known, else *--raw* (the section says where to get it).
* **checked on**: *real files*, or so far only *its format*: files made in the publisher's layout, until someone runs it
  on the real one.
* **preset=reference** (`--option preset=reference`) stands for the choices of PEFT-U's own code and gives its figures;
  the defaults are what we hold to be better, and each section says why they differ.
* **min_examples=N** works with every task: users with fewer rows are left out and counted.
* Nothing is dropped in silence: `peftu data stats TASK` lists under *notes* what a reader left out, and how many of it.

`peftu data import FILE` makes a task of a file of your own; [Contributing](../CONTRIBUTING.md) shows how to write one.
"""


def tasks_page() -> str:
    """Returns the page in Markdown, with the tasks of this package only."""
    names = [name for name in tasks.names() if tasks.get(name).__module__.startswith(HOME)]
    classes = {name: tasks.get(name) for name in names}
    head = "| task | what | target | language | licence | read from | checked on |\n|---|---|---|---|---|---|---|\n"
    table = "".join(_line(cls.card) for cls in classes.values())
    sites = [name for name in names if name.startswith("stackexchange-")]
    sections = [_section(cls, sites) for name, cls in classes.items() if name not in sites]
    return f"{INTRO}\n{head}{table}\n" + "\n".join(sections)


def _line(card: TaskCard) -> str:
    section = "stackexchange" if card.name.startswith("stackexchange") else card.name
    target = f"{card.kind}, {len(card.labels)} labels" if card.answers.labelled else "free text"
    source = "fetched" if all(file.url or file.package for file in card.files) else "--raw"
    checked = "real files" if card.verified == "data" else "its format"
    cells = (f"[`{card.name}`](#{section})", card.title, target, card.language, card.licence, source, checked)
    return "| " + " | ".join(cells) + " |\n"


def _section(cls: type[Task], sites: list[str]) -> str:
    card = cls.card
    facts = {
        "User": card.user,
        "Labels": ", ".join(f"`{label}`" for label in card.labels),
        "Asked": card.instruction,
        "Main metric": card.main_metric,
        "Options": "; ".join(_option(name, about) for name, about in option_choices(cls).items()),
        "Reference preset": _values(card.presets["reference"]) if "reference" in card.presets else "",
        "By name": ", ".join(f"`{name}`" for name in sites) if card.name == "stackexchange" else "",
        "Files": "; ".join(map(_file, card.files)),
        "Licence": card.licence,
        "Warning": card.content_warning or "",
        "Cite": card.citation,
    }
    listed = "".join(f"* **{name}:** {text}\n" for name, text in facts.items() if text)
    return f"## {card.name}\n\n[{card.title}]({card.homepage}). {card.description}\n\n{listed}"


def _option(name: str, about: dict[str, Any]) -> str:
    choices = [str(choice) for choice in about["choices"] or () if choice != about["default"]]
    default = f"`{name}={about['default']}`"
    return default + (f" or {', '.join(f'`{choice}`' for choice in choices)}" if choices else "")


def _values(options: dict[str, Any]) -> str:
    return ", ".join(f"`{name}={value}`" for name, value in options.items()) or "the defaults"


def _file(file: SourceFile) -> str:
    where = f"from the wheel `{file.package}`" if file.package else "fetched" if file.url else "pass it with --raw"
    sha256 = f", sha256 `{file.sha256[:12]}…`" if file.sha256 else ""
    return f"`{file.name}` ({where}{sha256}{', may be missing' if file.optional else ''})"


if __name__ == "__main__":
    sys.stdout.write(tasks_page())
