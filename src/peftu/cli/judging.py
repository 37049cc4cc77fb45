"""``peftu score`` and ``peftu leaderboard``: judging without a model, and without torch."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from peftu.cli.console import emit, stderr
from peftu.cli.options import Encoding, Format, Json, LabelsFile, Member, Raw, Replace, Sheet, TaskOption, User

if TYPE_CHECKING:
    import polars as pl

    from peftu.judge import Judgement
    from peftu.results import RunRecord


def score(
    file: Annotated[Path, typer.Argument(help="A file as import takes it: columns user, item, target, output.")],
    truth: Annotated[Path | None, typer.Option(help="A file with user, item, target, when FILE has no target.")] = None,
    user: Annotated[str | None, typer.Option(help="Name of the column with the user.")] = None,
    item: Annotated[str | None, typer.Option(help="Name of the column with the item.")] = None,
    target: Annotated[str | None, typer.Option(help="Name of the column with what the user said.")] = None,
    output: Annotated[str | None, typer.Option(help="Name of the column with what the system said.")] = None,
    kind: Annotated[Literal["single", "multi", "ordinal", "text"], typer.Option(help="Kind of answers.")] = "single",
    labels: Annotated[str | None, typer.Option(help="The label set in its order, with commas between.")] = None,
    metric: Annotated[
        str | None, typer.Option(help="The metric to rank by; default accuracy, for text rouge_l.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What the data is called; default the file's name.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for scores and report; default scores/<name>, or the next free one.")
    ] = None,
    labels_file: LabelsFile = None,
    form: Format = None,
    encoding: Encoding = None,
    sheet: Sheet = None,
    member: Member = None,
    replace: Replace = False,
    json: Json = False,
) -> None:
    """Judge a predictions file of any system: scores, intervals, and the report."""
    from peftu.data.labelling import label_set
    from peftu.data.readers.file import Reading
    from peftu.judge.score import score_file
    from peftu.judge.submission import ScoreOptions
    from peftu.metrics import metrics
    from peftu.run_folder import chosen_folder, command_line

    columns = {"user": user, "item": item, "target": target, "output": output}
    how = ScoreOptions(
        columns={role: column for role, column in columns.items() if column},
        kind=kind,
        labels=label_set(labels, labels_file),
        metric=metrics.get(metric).name if metric else None,
        name=name,
        truth=truth,
        reading=Reading(form, encoding, sheet, member),
    )
    folder = chosen_folder(out, Path("scores") / (name or file.stem), replace)
    record, scores, judgement = score_file(file, folder, how, command_line(), replace)
    _show(record, scores, judgement, folder, json)


def leaderboard(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, also those of 'peftu score'.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the merged board; default leaderboard, or the next free one.")
    ] = None,
    replace: Replace = False,
    cold_start: Annotated[
        bool, typer.Option("--cold-start", help="Draw a curve over runs with different k (-s split.k=…) instead.")
    ] = False,
    json: Json = False,
) -> None:
    """Put the methods of many runs on one board; runs of different splits are refused."""
    from peftu.judge.coldstart import cold_start as over_k
    from peftu.judge.merge import merge
    from peftu.run_folder import chosen_folder, command_line

    made = over_k if cold_start else merge
    folder = chosen_folder(out, Path("leaderboard"), replace)
    record, scores, judgement = made(runs, folder, command_line(), replace)
    _show(record, scores, judgement, folder, json)


def about(
    task: str,
    user: User,
    raw: Raw = None,
    option: TaskOption = None,
    json: Json = False,
) -> None:
    """Say what differs about one user: labels, words and texts. It shows texts: for that user's own eyes."""
    from peftu.cli.data import task_options
    from peftu.data.load import load_task
    from peftu.judge.person import about_user

    table = load_task(task, raw, task_options(option))
    person = about_user(table.frame, table.card, user)
    apart = [f"You: {', '.join(text.own)}. {text.voters} others, mostly not: {text.text}" for text in person.texts]
    emit(person.model_dump(mode="json"), json, *person.sentences(), *apart)


def _show(record: "RunRecord", scores: "pl.DataFrame", judgement: "Judgement", folder: Path, json: bool) -> None:
    """Draws the report where that can be done, and prints the board."""
    from peftu.report.blocks import DrawingError
    from peftu.report.html import render
    from peftu.report.terminal import summary
    from peftu.report.view import RunView
    from peftu.results import REPORT

    drawn = True
    try:
        render([RunView(record, scores, judgement)], folder / REPORT)
    except DrawingError as error:
        drawn = False
        (folder / REPORT).unlink(missing_ok=True)  # an earlier one would say other things
        stderr.print(f"no report: {error}; the scores are kept: peftu report {folder}", soft_wrap=True)
    result = record.cli_json(folder) | ({} if drawn else {"report": None}) | {"warnings": list(record.warnings)}
    where = f"\nreport: {folder / 'report.html'}" if drawn else f"\nscores: {folder}"
    emit(result, json, summary(record, judgement), *record.warnings, where)
