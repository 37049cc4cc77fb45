"""What people type in a notebook. Everything here is offered by ``peftu`` itself; torch is loaded when it is needed."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from peftu.config import HardwareSpec, MethodSpec, RunSpec, validated
from peftu.data.load import load_task as load_table
from peftu.data.table import UserTable
from peftu.errors import PeftuError
from peftu.registry import did_you_mean
from peftu.run import Run

if TYPE_CHECKING:
    from peftu.fitted.fitted import Fitted
    from peftu.lab.progress import Reporter
    from peftu.trackers.tracker import Tracker


def load_task(name: str, raw: Path | str | None = None, **options: Any) -> UserTable:
    """Returns a task's table; it is built once and kept in the cache.

    Args:
        name: a registered or imported task.
        raw: folder with the task's raw files; None: the cache, filled from the publisher.
        options: the task's own options, such as ``group="g1"``; see ``peftu tasks NAME``.

    Raises:
        PeftuError: unknown task or option, raw files missing or changed, or a row is wrong.
    """
    return load_table(name, Path(raw) if raw is not None else None, options)


def compare(
    task: str | UserTable,
    methods: str | Sequence[str | MethodSpec] | None = None,
    *,
    seeds: int | Sequence[int] | None = None,
    base: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    quantize: str | None = None,
    out: Path | str | None = None,
    raw: Path | str | None = None,
    if_exists: Literal["resume", "overwrite", "error"] = "resume",
    executor: str = "local",
    workers: int = 1,
    cells: Path | str | None = None,
    max_minutes: float | None = None,
    track: "str | Sequence[str | Tracker]" = (),
    baselines: bool = True,
    reporter: "Reporter | None" = None,
    **settings: Any,
) -> Run:
    """Returns a finished run after training and judging methods on the same users and splits.

    Args:
        task: a task's name, or what ``load_task`` or ``from_frame`` returned.
        methods: as 'user-majority,lora[rank=4]@base' or one by one; None: the usual ones for the kind of task.
        seeds: how many, from 0 on, or which.
        base: of methods that name none.
        device: where bases compute: 'auto' (a GPU where there is one), 'cpu', 'cuda', 'cuda:N' or 'mps'.
        dtype: the number type that they run in: 'auto', 'float32', 'bfloat16' or 'float16'.
        quantize: how the weights of their layers are held: 'none', 'int8' or 'nf4'.
        out: the run folder; None: ``runs/<task>-<id>``, or the next free one.
        raw: folder with the raw files of a task given by name.
        if_exists: what becomes of a run in ``out``: 'resume' goes on with the same one, 'overwrite' puts this one in
            its place once it is whole, 'error' leaves it.
        executor: what fills cells: 'local', or 'ray' (``pip install 'peftu[ray]'``).
        workers: processes that work at once.
        cells: folder of the cells, shared by runs; None: in peftu's cache.
        max_minutes: after which no cell is begun; None: no end.
        track: what follows the run, one or several of 'tensorboard:FOLDER', 'mlflow:FOLDER', or a ``Tracker``.
        baselines: also run the majorities where no yardstick is among the methods.
        reporter: hears about stages; None: nobody does.
        settings: what ``peftu compare`` takes as flags (``regime``, ``region``, ``users``, ``epochs``, ``preset``, …)
            and any field of a run's description (``split={"k": 5}``, ``max_tokens=64``); see docs/runs.md.

    Raises:
        PeftuError: anything that can be mended; nothing half-written is left to be read as whole.
        OutOfTimeError: the time is over; the same call goes on with what was filled.
    """
    hardware = {"device": device, "dtype": dtype, "quantize": quantize}
    spec, table = _described("compare", task, methods, raw, baselines, seeds=seeds, base=base, **hardware, **settings)
    from peftu.execute.run import How, run

    followers = [track] if isinstance(track, str) else track
    how = How(
        if_exists, executor, workers, cells=Path(cells) if cells else None, max_minutes=max_minutes, track=followers
    )
    folder, _ = run(
        spec, Path(out) if out else None, Path(raw) if raw else None, reporter=reporter, how=how, table=table
    )
    return Run(folder)


def fit(
    task: str | UserTable,
    method: str | MethodSpec,
    *,
    seed: int = 0,
    base: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    quantize: str | None = None,
    raw: Path | str | None = None,
    reporter: "Reporter | None" = None,
    **settings: Any,
) -> "Fitted":
    """Returns one method fitted on a task's train rows, to be asked, extended and kept; nothing is judged.

    Args:
        task: a task's name, or what ``load_task`` or ``from_frame`` returned.
        method: as 'lora[rank=4]@base'; a guard is made by ``compare``.
        seed: of the split and the fit.
        base: of a method that names none.
        device: where bases compute: 'auto' (a GPU where there is one), 'cpu', 'cuda', 'cuda:N' or 'mps'.
        dtype: the number type that they run in: 'auto', 'float32', 'bfloat16' or 'float16'.
        quantize: how the weights of their layers are held: 'none', 'int8' or 'nf4'.
        raw: folder with the raw files of a task given by name.
        reporter: hears about stages; None: nobody does.
        settings: as ``compare`` takes them.

    Raises:
        PeftuError: anything that can be mended.
    """
    hardware = {"device": device, "dtype": dtype, "quantize": quantize}
    spec, table = _described("fit", task, [method], raw, False, seeds=[seed], base=base, **hardware, **settings)
    from peftu.cells.fits import Fits
    from peftu.data.splits import make_problem, make_split
    from peftu.lab.progress import Silent
    from peftu.plan import check_kind, plan

    jobs = plan(spec)
    if len(jobs) > 1:
        raise PeftuError(f"fit: '{jobs[-1].spec}' needs {len(jobs) - 1} other methods — compare them, then Run.fitted")
    table = table or load_table(spec.task, Path(raw) if raw else None, spec.task_options)
    check_kind(jobs, table.card)
    problem = make_problem(table, table.card, make_split(table, spec.split, seed))
    fits = Fits(
        table.card,
        {seed: problem},
        spec.max_tokens,
        reporter or Silent(),
        spec.max_answer_tokens,
        hardware=spec.hardware,
    )
    return fits.fit(jobs[0], seed)


def load(path: Path | str, base: str | None = None, **hardware: str) -> "Fitted":
    """Returns what ``Fitted.save`` kept; what is enrolled or forgotten in it is kept there at once.

    Args:
        path: the folder.
        base: where the base is now, if it has moved; it must be the same.
        hardware: ``device``, ``dtype`` and ``quantize`` of it, as ``compare`` takes them; by default as it was fitted.

    Raises:
        PeftuError: no fitted method there, a damaged or newer one, another base than it was fitted on, or hardware
            that is not here.
    """
    from peftu.environment import need_torch

    need_torch()
    from peftu.fitted.folder import load as load_folder
    from peftu.lab.lab import Lab

    return load_folder(Path(path), Lab(hardware=validated(HardwareSpec, hardware, "load")), base)


def open(path: Path | str) -> Run:
    """Returns the run in a folder, after checking its files.

    Raises:
        PeftuError: the folder has no whole record, or a file is missing or was changed since.
    """
    return Run(path)


def _described(
    caller: str,
    task: str | UserTable,
    methods: str | Sequence[str | MethodSpec] | None,
    raw: Path | str | None,
    baselines: bool,
    **settings: Any,
) -> tuple[RunSpec, UserTable | None]:
    """Returns a run's closed description, and its task's table where that is at hand."""
    from peftu.environment import need_torch
    from peftu.experiment import run_spec

    need_torch()
    table = task if isinstance(task, UserTable) else None
    if table is not None:
        if raw is not None or "task_options" in settings:
            raise PeftuError(f"{caller}: the task is a table already — pass raw files and options to load_task")
        settings |= {"task_options": table.options}
    spec = run_spec(
        table.card.name if table else str(task),
        card=table.card if table else None,
        methods=methods,
        baselines=baselines,
        **_sorted_settings(caller, settings),
    )
    return spec, table


def _sorted_settings(caller: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Returns arguments of ``run_spec``: its own ones, and the others as its ``settings``.

    Raises:
        PeftuError: neither takes a setting of that name.
    """
    from peftu.experiment import GROUPS, run_spec

    parameters = inspect.signature(run_spec).parameters.keys() - {"card", "settings"}
    known = {*parameters, *RunSpec.model_fields}
    near: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for name, value in settings.items():
        if name.partition(".")[0] not in known:
            raise PeftuError(f"{caller}: unknown setting '{name}'{did_you_mean(name, known)}")
        if name in parameters:
            near[name] = value
        elif name in GROUPS and isinstance(value, dict):
            rest |= {f"{name}.{key}": part for key, part in value.items()}
        else:
            rest[name] = value
    return {**near, "settings": rest}
