"""The report: one HTML file with everything inside, for people who decide."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import polars as pl

from peftu import __version__
from peftu.errors import PeftuError
from peftu.report import words
from peftu.report.view import RunView
from peftu.results import RunRecord, load_run, write_atomic

_EXTRA = "the report needs altair, jinja2 and vl-convert-python — pip install peftu[report]"


def render(runs: Sequence[tuple[RunRecord, pl.DataFrame]], out: Path) -> Path:
    """Returns the path of the report over these runs: one file, no scripts, nothing loaded from elsewhere.

    Users appear as 'user 1…n', in the order of their sorted keys; keys, items and texts appear nowhere.

    Args:
        runs: records with the frames that ``peftu.metrics.user_scores`` made for them.
        out: the HTML file to write, or the folder to put ``report.html`` into.

    Raises:
        PeftuError: there is no run, or the 'report' extra is not installed.
    """
    if not runs:
        raise PeftuError("report: no run was given — name one or more run folders")
    try:
        import jinja2

        from peftu.report import charts
    except ImportError as error:
        raise PeftuError(_EXTRA) from error
    room = files("peftu.report")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"count": words.count, "seconds": words.seconds, "data_size": words.data_size}
    template = environment.from_string((room / "report.html.j2").read_text(encoding="utf-8"))
    views = [RunView(record, scores, charts) for record, scores in runs]
    tasks = list(dict.fromkeys(record.task.title for record, _ in runs))
    html = template.render(
        title=f"Was personalising worth it? {' · '.join(tasks)}",
        subtitle=f"Small personal modules on a frozen language model, judged user by user: {', '.join(tasks)}.",
        css=(room / "report.css").read_text(encoding="utf-8"),
        runs=views,
        version=__version__,
    )
    out = Path(out)
    return write_atomic(out / "report.html" if out.is_dir() else out, html)


def render_folders(folders: Sequence[Path], out: Path) -> Path:
    """Returns the path of the report over finished run folders, after checking their files.

    Raises:
        PeftuError: a folder is unfinished or changed, or the 'report' extra is not installed.
    """
    loaded = [load_run(folder) for folder in folders]
    return render([(run.record, run.user_scores()) for run in loaded], out)
