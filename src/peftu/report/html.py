"""The report: one HTML file with everything inside, for people who decide."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftu import __version__
from peftu.data.sources import writing_to
from peftu.errors import PeftuError
from peftu.files import write_atomic
from peftu.judge import read_judgement
from peftu.outside import shown
from peftu.report.blocks import DrawingError
from peftu.report.names import capital
from peftu.report.view import RunView
from peftu.report.words import NOTHING, join
from peftu.results import REPORT, RunRecord, load_run

if TYPE_CHECKING:
    from peftu.report.blocks import Section
    from peftu.report.sections.answer import Answer
    from peftu.report.sections.board import Leaderboard

_EXTRA = "the report needs altair, jinja2 and vl-convert-python — pip install 'peftu[report]'"


_BEGINS = b"<!doctype html>"


@dataclass(frozen=True)
class Chapter:
    """What the page says of one run."""

    anchor: str
    record: RunRecord
    answer: "Answer"
    board: "Leaderboard"
    sections: "list[Section]"
    leader: str
    score: str
    gain: str


def render(runs: Sequence[RunView], out: Path) -> Path:
    """Returns the path of the report over these runs: one file that loads nothing from elsewhere.

    Its one script sorts and filters; the page forbids every other one, and every request. Users appear as
    'user 1…n', in the order of their sorted keys; keys, items and texts appear nowhere.

    Args:
        runs: records with their user scores and judgements.
        out: the HTML file to write, or the folder to put ``report.html`` into.

    Raises:
        PeftuError: there is no run.
        DrawingError: the 'report' extra is not installed, or what draws the charts broke off; nothing is written.
    """
    if not runs:
        raise PeftuError("report: no run was given — name one or more run folders")
    try:
        import jinja2  # noqa: F401

        from peftu.report.charts.drawing import drawing

        with drawing():
            chapters = [_chapter(number, run) for number, run in enumerate(runs, start=1)]
    except ImportError as error:
        raise DrawingError(_EXTRA) from error
    environment = _environment()
    load = environment.loader.get_source if environment.loader else None
    look, css, script = (load(environment, name)[0] if load else "" for name in ("look.css", "report.css", "report.js"))
    tasks = list(dict.fromkeys(run.record.task.title for run in runs))
    html = environment.get_template("report.html.j2").render(
        title=f"Was personalising worth it? {' · '.join(tasks)}",
        subtitle=f"Small personal modules on a frozen language model, judged user by user: {', '.join(tasks)}.",
        css=look + css,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        chapters=chapters,
        version=__version__,
    )
    out = Path(out) / REPORT if Path(out).is_dir() else Path(out)
    with writing_to(out.parent):
        return write_atomic(out, html)


@cache
def _environment() -> Any:
    """Returns the templates, compiled once a process."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("peftu.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalized,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _finalized(value: Any) -> Any:
    """Returns what is put into the page: names and texts are shown, never obeyed, escaped or not."""
    return type(value)(shown(value)) if isinstance(value, str) else value


def _chapter(number: int, view: RunView) -> Chapter:
    from peftu.report.sections import sections
    from peftu.report.sections.answer import answer
    from peftu.report.sections.board import board

    best, leaders = view.verdict.method, view.leaders
    gain = view.findings.over(best, view.findings.bar) if best else None
    gained = (
        f"{capital(view.short(best))}: {view.scale.gain(gain.gain)} {view.scale.unit}" if best and gain else NOTHING
    )
    return Chapter(
        anchor=f"run-{number}",
        record=view.record,
        answer=answer(view),
        board=board(view),
        sections=sections(view),
        leader=capital(join([view.short(result) for result in leaders])) if leaders else NOTHING,
        score=view.scale.number(leaders[0].mean if leaders else None),
        gain=gained,
    )


def render_folders(folders: Sequence[Path], out: Path) -> Path:
    """Returns the path of the report over finished run folders, after checking their files.

    Raises:
        PeftuError: a folder is unfinished or changed, or ``out`` is a file of another kind.
        DrawingError: as `render`.
    """
    out = report_file(out)
    loaded = [load_run(folder) for folder in folders]
    return render([RunView(run.record, run.user_scores(), read_judgement(run.folder)) for run in loaded], out)


def report_file(out: Path) -> Path:
    """Returns the file that a report may be written to: ``out``, or ``report.html`` in that folder.

    Raises:
        PeftuError: a file of another kind is there.
    """
    target = out / REPORT if out.is_dir() else out
    if target.is_file() and not target.read_bytes().startswith(_BEGINS):
        raise PeftuError(f"{target}: is there already and is no report — pass another file with -o")
    return target
