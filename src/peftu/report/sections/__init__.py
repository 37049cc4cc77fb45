"""The parts of a report: each returns a section, or none where the run has nothing to fill it with."""

from collections.abc import Callable

from peftu.report.blocks import Section
from peftu.report.sections.cost import cost
from peftu.report.sections.made import made
from peftu.report.sections.people import people
from peftu.report.sections.training import training
from peftu.report.sections.trust import trust
from peftu.report.view import RunView

SECTIONS: tuple[Callable[[RunView], Section | None], ...] = (people, training, cost, trust, made)


def sections(view: RunView) -> list[Section]:
    """Returns the sections that this run can fill, in reading order."""
    return [section for make in SECTIONS if (section := make(view)) is not None]
