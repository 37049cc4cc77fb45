"""``peftu leaderboard``: many runs of one split on one board."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from peftu.answers import answers_of
from peftu.config import validated
from peftu.data.task import TaskCard
from peftu.errors import PeftuError
from peftu.judge.folder import FolderContents, tests_hash, write_board
from peftu.judge.judgement import read_judgement, write_judgement
from peftu.judge.score import REGIME
from peftu.judge.shapes import Judgement
from peftu.metrics import PREDICTIONS, SYSTEM
from peftu.results import RECORD, Hashes, MethodCost, Run, RunRecord, finish_folder, load_run
from peftu.system import System

_TAGS = ("scope", "trained", "uses_others_labels", "notes")


def merge(
    folders: Sequence[Path], out: Path, command: str | None = None, replace: bool = False
) -> tuple[RunRecord, pl.DataFrame, Judgement]:
    """Returns record, user scores and judgement of all runs' methods together, after writing them to a run folder.

    Runs must have been tested on the same rows: the same task, label set and metric, and the same split for every seed
    that they have in common (only these seeds are kept). A file scored by ``peftu score`` fits a run whose test rows
    it holds. A method that several runs have with the same answers stands once, else with its run's name.

    Raises:
        PeftuError: a folder is no finished run, or two runs differ in what they were tested on.
    """
    if not folders:
        raise PeftuError("leaderboard: no run was given — name one or more run folders")
    refuse_own_folder(folders, out)
    runs = [load_run(folder) for folder in folders]
    first, hashes = runs[0], runs[0].record.hashes
    frames = [run.predictions() for run in runs]
    seeds = _common_seeds(runs, frames)
    left_out = sorted({int(seed) for run in runs for seed in run.record.hashes.splits} - set(seeds))
    renamed = _distinct(runs, [frame.filter(pl.col("seed").is_in(seeds)) for frame in frames])
    costs, tags = _costs_and_tags(runs, renamed)
    contents = FolderContents(
        predictions=pl.concat([frame.select(*PREDICTIONS) for frame, _ in renamed]),
        card=card_of(first.record),
        regime=next((run.record.regime for run in runs if run.record.regime != REGIME), REGIME),
        hashes=Hashes(
            data=hashes.data,
            splits={str(seed): hashes.splits[str(seed)] for seed in seeds},
            bases={base: print_ for run in runs for base, print_ in run.record.hashes.bases.items()},
        ),
        spec={"merged": [run.record.run for run in runs]},
        n_train=_n_train(runs),
        costs=costs,
        tags=tags,
        warnings=(f"seeds {left_out} are not in every run and were left out",) if left_out else (),
    )
    record, scores, judgement = write_board(contents, out, command, replace)
    return _with_ceilings(runs, record, judgement, scores, out)


def refuse_own_folder(folders: Sequence[Path], out: Path) -> None:
    """Checks that a board is not written over a run that it is made from.

    Raises:
        PeftuError: it would be.
    """
    runs = (Path(folder).parent if Path(folder).name == RECORD else Path(folder) for folder in folders)
    if Path(out).resolve() in (run.resolve() for run in runs):
        raise PeftuError(f"{out}: is one of the runs, and would be replaced — pass another folder with --out")


def _common_seeds(runs: Sequence[Run], frames: Sequence[pl.DataFrame]) -> list[int]:
    """Returns the seeds that all runs have, after checking that they were tested on the same rows in them."""
    first = runs[0].record
    seeds = sorted(set.intersection(*({int(seed) for seed in run.record.hashes.splits} for run in runs)))
    if not seeds:
        raise PeftuError("leaderboard: the runs have no seed in common — run them with the same --seeds")
    for run, frame in zip(runs[1:], frames[1:], strict=True):
        for what in ("name", "labels", "kind", "main_metric"):
            expected, other = getattr(first.task, what), getattr(run.record.task, what)
            scored = REGIME in (first.regime, run.record.regime)
            if expected != other and not (scored and what == "name"):
                raise PeftuError(
                    f"leaderboard: {runs[0].folder} and {run.folder} differ in {what} ({expected} and {other}) — "
                    "compare runs of one task"
                )
        for seed in seeds:
            if REGIME in (first.regime, run.record.regime):
                pair = [tests_hash(frames[0], seed), tests_hash(frame, seed)]
            else:
                pair = [first.hashes.splits[str(seed)], run.record.hashes.splits[str(seed)]]
            if pair[0] != pair[1]:
                raise PeftuError(
                    f"leaderboard: {runs[0].folder} and {run.folder} have different splits at seed {seed} "
                    f"({pair[0][:19]}… and {pair[1][:19]}…) — compare runs made with the same split settings"
                )
    return seeds


def _distinct(runs: Sequence[Run], frames: Sequence[pl.DataFrame]) -> list[tuple[pl.DataFrame, dict[System, System]]]:
    """Returns each run's predictions with method names that no other run has, and which method was named what."""
    seen: dict[System, pl.DataFrame] = {}
    result = []
    for run, frame in zip(runs, frames, strict=True):
        kept, names = [], {}
        for (method, base), rows in frame.group_by(*SYSTEM, maintain_order=True):
            system = System(str(method), None if base is None else str(base))
            columns = ["predicted"] if answers_of(run.record.task.kind).labelled else ["predicted", "scores"]
            answers = rows.sort("seed", "user_id", "item_id").select("seed", "user_id", "item_id", "part", *columns)
            named = (system, *(_named(system, name) for name in _run_names(run, len(runs))))
            fresh = next(system for system in named if system not in seen or seen[system].equals(answers))
            if fresh in seen:
                continue
            seen[fresh] = answers
            names[system] = fresh
            kept.append(rows.with_columns(method=pl.lit(fresh.method)))
        result.append((pl.concat(kept) if kept else frame.clear(), names))
    return result


def _run_names(run: Run, most: int) -> Iterator[str]:
    """Yields names for a run that others may have, too: its folder's, then that with a number."""
    name = run.folder.resolve().name
    yield name
    yield from (f"{name} {number}" for number in range(2, most + 1))


def _named(system: System, run: str) -> System:
    """Returns 'lora[rank=4,run=b]' for 'lora[rank=4]', on the same base."""
    name, bracket, knobs = system.method.partition("[")
    return System(f"{name}[{knobs.removesuffix(']')},run={run}]" if bracket else f"{name}[run={run}]", system.base)


def _costs_and_tags(
    runs: Sequence[Run], renamed: Sequence[tuple[pl.DataFrame, dict[System, System]]]
) -> tuple[dict[System, MethodCost], dict[System, dict[str, Any]]]:
    """Returns what the runs' records say of their methods' costs and kinds, under the methods' new names."""
    costs: dict[System, MethodCost] = {}
    tags: dict[System, dict[str, Any]] = {}
    for run, (_, names) in zip(runs, renamed, strict=True):
        for result in run.record.methods:
            fresh = names.get(result.system)
            if fresh is None:
                continue
            fields = result.model_dump()
            costs[fresh] = MethodCost.model_validate({key: fields[key] for key in MethodCost.model_fields})
            tags[fresh] = {key: fields[key] for key in _TAGS}
    return costs, tags


def _n_train(runs: Sequence[Run]) -> pl.DataFrame | None:
    for run in runs:
        scores = run.user_scores()
        if "n_train" in scores.columns:
            return scores.select("seed", "user_id", "n_train").unique(["seed", "user_id"])
    return None


def card_of(record: RunRecord) -> TaskCard:
    """Returns as much of the task's card as judging needs.

    Raises:
        PeftuError: the record's task cannot be, as one with a single label.
    """
    about = {**record.task.model_dump(), "description": "", "instruction": "", "files": ()}
    return validated(TaskCard, about, f"run {record.run}: task")


def _with_ceilings(
    runs: Sequence[Run], record: RunRecord, judgement: Judgement, scores: pl.DataFrame, out: Path
) -> tuple[RunRecord, pl.DataFrame, Judgement]:
    """Returns the judgement with the ceilings that a run computed from the whole task, which no run folder holds."""
    for run in runs:
        kept = read_judgement(run.folder) if run.record.regime != REGIME else None
        if kept is None or set(run.record.hashes.splits) != set(record.hashes.splits):
            continue
        systems = {method.system for method in record.methods}
        closed = [gap for gap in kept.closed if gap.system in systems]
        mended = judgement.model_copy(
            update={"ceilings": kept.ceilings, "closed": tuple(closed), "shifts": kept.shifts}
        )
        write_judgement(mended, out)
        return finish_folder(out, record), scores, mended
    return record, scores, judgement
