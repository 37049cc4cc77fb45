"""The parts of a report: each returns a section, or none where the run has nothing to fill it with."""

from collections.abc import Callable

from peftu.report.blocks import Section
from peftu.report.sections.ceilings import ceilings
from peftu.report.sections.certainty import certainty
from peftu.report.sections.cold import cold
from peftu.report.sections.data import data
from peftu.report.sections.groups import demographics, labels
from peftu.report.sections.made import made
from peftu.report.sections.people import people
from peftu.report.sections.prices import cost
from peftu.report.sections.reliability import reliability
from peftu.report.sections.scores import scores
from peftu.report.sections.shifts import shifts
from peftu.report.sections.trends import distance, training
from peftu.report.sections.trust import trust
from peftu.report.view import RunView

SECTIONS: tuple[Callable[[RunView], Section | None], ...] = (
    people, distance, training, cold, labels, demographics, shifts,
    certainty, ceilings, reliability, scores, cost,
    data, trust, made,
)  # fmt: skip


def sections(view: RunView) -> list[Section]:
    """Returns the sections that this run can fill, in reading order."""
    return [section for make in SECTIONS if (section := make(view)) is not None]
