"""A finished run, as a notebook asks for it."""

from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from peftu.config import HardwareSpec, validated
from peftu.data.sources import writing_to
from peftu.files import write_atomic
from peftu.judge import Judgement, read_judgement
from peftu.judge.findings import Findings
from peftu.metrics import metrics
from peftu.outside import shown
from peftu.report.html import render_folders, report_file
from peftu.report.terminal import ranked
from peftu.report.words import Scale
from peftu.results import REPORT, MethodResult, RunRecord, Score, load_run

if TYPE_CHECKING:
    from peftu.fitted.fitted import Fitted

BOARD: dict[str, Any] = {
    "method": pl.String,
    "base": pl.String,
    "mean": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "gain": pl.Float64,
    "gain_low": pl.Float64,
    "gain_high": pl.Float64,
    "decision": pl.String,
    "helped": pl.Int64,
    "unchanged": pl.Int64,
    "hurt": pl.Int64,
    "users": pl.Int64,
    "unscored": pl.Int64,
    "parameters_per_user": pl.Int64,
    "bytes_per_user": pl.Int64,
    "seconds_per_user": pl.Float64,
}


class Run:
    """A finished run folder, whose files are what its record says they are.

    Attributes:
        path: the folder.
        record: everything needed to trust, repeat and compare the run.
    """

    def __init__(self, path: Path | str) -> None:
        """Reads a folder and checks its files.

        Raises:
            PeftuError: the folder has no whole record, or a file is missing or was changed since.
        """
        self._files = load_run(Path(path))
        self.path: Path = self._files.folder
        self.record: RunRecord = self._files.record

    @cached_property
    def judgement(self) -> Judgement | None:
        """Whether personalising was worth it, for whom, and how sure that is; None for a run without a judgement.

        Raises:
            PeftuError: the file is cut off or comes from a newer version.
        """
        return read_judgement(self.path)

    def leaderboard(self) -> pl.DataFrame:
        """Returns the methods, best first.

        ``mean`` is the task's main metric over users, with its 95 % interval ``low`` to ``high``. ``gain`` is paired
        over users, and positive is better: over each user's own habit or, for free text, over the model shared by all.
        ``decision`` is 'better', 'worse' or 'unclear', null where there is nothing to compare with.
        """
        return pl.DataFrame([self._line(result) for result in ranked(self.record)], BOARD, orient="row")

    def predictions(self) -> pl.DataFrame:
        """Returns every prediction: a row for each method, seed, user and item, with users' keys.

        Raises:
            PeftuError: the record does not list them.
        """
        return self._files.predictions()

    def fitted(
        self, system: str | None = None, seed: int | None = None, base: str | None = None, **hardware: str
    ) -> "Fitted":
        """Returns one method that the run fitted; what is enrolled or forgotten in it is kept in the run at once.

        Args:
            system: as it was asked for or stands in the table, such as 'lora@all-minilm-l6-v2'; None: the one personal
                method that was trained.
            seed: the first by default.
            base: where the base is now, if it has moved; it must be the same.
            hardware: ``device``, ``dtype`` and ``quantize`` of it, as ``compare`` takes them; else as it was fitted.

        Raises:
            PeftuError: no such method or seed, another base than it was fitted on, or hardware that is not here.
        """
        from peftu.environment import need_torch

        need_torch()
        from peftu.execute.stored import opened
        from peftu.lab.lab import Lab

        return opened(self.path, system, seed, base, Lab(hardware=validated(HardwareSpec, hardware, "fitted")))

    def report(self, path: Path | str | None = None) -> Path:
        """Returns the path of the report, one HTML file, after drawing it where it is missing.

        Args:
            path: a file or folder to copy it to; None: it stays in the run folder.

        Raises:
            PeftuError: it cannot be drawn, or ``path`` is a file of another kind or cannot be written.
        """
        drawn = self.path / REPORT
        if not drawn.is_file():
            render_folders([self.path], drawn)
        if path is None:
            return drawn
        target = report_file(Path(path))
        with writing_to(target.parent):
            return write_atomic(target, drawn.read_bytes())

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}: {self.record.task.name}, {len(self.record.methods)} methods)"

    def _repr_html_(self) -> str:
        scale = Scale(metrics.get(self.record.task.main_metric))
        findings = self._findings
        lines = [["method", "base", scale.title, f"gain over {findings.bar}", "helped / same / hurt"]]
        for result in ranked(self.record):
            score = Score(mean=result.mean, ci=result.ci)
            gain = "" if result.name == findings.bar else scale.gain(result.gain.get(findings.bar))
            whom = "" if result.helped is None else f"{result.helped} / {result.unchanged} / {result.hurt}"
            lines.append([result.method, result.base or "", scale.score(score), gain, whom])
        lines += [[failed.method, failed.base or "", "failed", failed.why, ""] for failed in self.record.failed]
        head, *rows = (_cells(line, "td" if place else "th") for place, line in enumerate(lines))
        about = f"{self.record.task.title} · {self.record.regime} · {self.record.users} users"
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        return f"<table><caption>{_safe(about)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    @property
    def _findings(self) -> Findings:
        gains = self.judgement.gains if self.judgement else ()
        return Findings(self.record.methods, gains, self.record.task.kind)

    def _line(self, result: MethodResult) -> tuple[Any, ...]:
        bar = self._findings.bar
        gain = None if result.name == bar else result.gain.get(bar)
        known = result.model_dump(include=set(BOARD))
        known["low"], known["high"] = result.ci or (None, None)
        known["gain"] = gain.mean if gain else None
        known["gain_low"], known["gain_high"] = (gain.ci if gain else None) or (None, None)
        known["decision"] = self._findings.decision(result, bar) if gain else None
        return tuple(known[name] for name in BOARD)


def _cells(line: list[str], tag: str) -> str:
    return "".join(f"<{tag}>{_safe(cell)}</{tag}>" for cell in line)


def _safe(text: str) -> str:
    """Returns a text that a page shows and does not obey."""
    return escape(shown(text))
