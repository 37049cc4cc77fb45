"""The methods that a run fitted, opened with the base, prompt and thresholds that they were fitted with."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from torch import Tensor

from peftu.base.prompt import Prompt
from peftu.base.region import Region
from peftu.config import MethodSpec
from peftu.data.problem import Floats
from peftu.errors import PeftuError
from peftu.fitted.elsewhere import remarks, there
from peftu.fitted.fitted import Fitted, TaskAnswers
from peftu.fitted.folder import ABOUT, CODES, job_of, load, read_about
from peftu.fitted.modules import JointFitted, ModuleFitted
from peftu.fitted.opening import open_base
from peftu.fitted.rows import StoredRows
from peftu.lab.lab import Lab
from peftu.registry import did_you_mean
from peftu.results import Run, load_run
from peftu.run_folder import FITTED, MODULES
from peftu.store import EVERYONE, AdapterStore, Collection, is_store, recipe
from peftu.system import System

SHARED = "shared"  # the part of a joint method that is everybody's, kept beside users' codes
TRAINED = (ModuleFitted.kind, JointFitted.kind)

Kept = dict[str, Any]  # label, seed, kind, personal; and its folder, or its collection in an earlier release's run


def shared_label(label: str) -> str:
    """Returns the label of what the users of a joint method share."""
    return f"{label} ({SHARED})"


@contextmanager
def opened_store(run: Path) -> Iterator[AdapterStore]:
    """Opens the modules of a finished run, or a store by itself.

    Raises:
        PeftuError: the run did not finish, was altered, or has no modules.
    """
    run = Path(run)
    if not is_store(run):
        load_run(run)
    with AdapterStore(run if is_store(run) else run / MODULES) as store:
        yield store


def folders(run: Path) -> list[Path]:
    """Returns the folders of what a run fitted; of a folder that `Fitted.save` made, itself."""
    return [run] if (run / ABOUT).exists() else [path.parent for path in (run / FITTED).glob(f"*/{ABOUT}")]


def systems(run: Path) -> list[Kept]:
    """Returns every method and seed that a finished run kept, or the one that `Fitted.save` put into a folder.

    Raises:
        PeftuError: the run did not finish, was altered, or kept nothing.
    """
    run = Path(run)
    if not (run / ABOUT).exists():
        load_run(run)
    if (run / ABOUT).exists() or (run / FITTED).is_dir():
        abouts = [(folder, read_about(folder)) for folder in folders(run)]
        kept = [
            {"folder": folder, **{key: about[key] for key in ("label", "seed", "kind", "personal", "place")}}
            for folder, about in abouts
        ]
        return sorted(kept, key=lambda system: system["place"])
    with AdapterStore(run / MODULES) as store:
        return stored_systems(store)


def stored_systems(store: AdapterStore) -> list[Kept]:
    """Returns every method and seed that a store has modules of."""
    return [
        {
            "collection": collection,
            "label": collection.label,
            "seed": collection.seed,
            "kind": JointFitted.kind if collection.made.get("part") == CODES else ModuleFitted.kind,
            "personal": store.keys(collection) != [EVERYONE],
        }
        for collection in store.collections()
        if collection.made.get("part") != SHARED
    ]


def opened(
    run: Path,
    method: str | None = None,
    seed: int | None = None,
    base: str | None = None,
    lab: Lab | None = None,
) -> Fitted:
    """Returns one method that a run fitted; what is enrolled or forgotten in it is kept in the run at once.

    Args:
        run: a finished run folder, or one that `Fitted.save` made.
        method: as in the run's table, with or without its base; needed when the run trained several personal ones.
        seed: the first by default.
        base: where the base is now; None: where it was at training.
        lab: what it shares with other methods, and where its base computes; None: one of its own, as it was fitted.

    Raises:
        PeftuError: no such run, method or seed, another base than it was fitted on, or hardware that is not here.
    """
    return _opened(run, chosen(systems(run), method, seed), base, lab or Lab())


def opened_modules(
    run: Path, method: str | None = None, seed: int | None = None, base: str | None = None
) -> tuple[ModuleFitted, StoredRows]:
    """Returns one method that a run trained modules of, and where they are; see `opened`.

    Raises:
        PeftuError: as `opened`, or the method has no modules.
    """
    system = chosen([system for system in systems(run) if system["kind"] in TRAINED], method, seed)
    fitted = _opened(run, system, base, Lab())
    if not isinstance(fitted, ModuleFitted) or not isinstance(fitted.rows, StoredRows):
        raise PeftuError(f"the run has no modules of '{fitted.label}' — choose a method that trains some")
    return fitted, fitted.rows


def _opened(run: Path, system: Kept, base: str | None, lab: Lab) -> Fitted:
    if "folder" in system:
        return load(system["folder"], lab, base, str(run))
    return _of_collection(Path(run), system["collection"], base, lab)


def chosen(kept: list[Kept], method: str | None, seed: int | None) -> Kept:
    """Returns the method and seed that are asked for among those there are.

    Raises:
        PeftuError: there is no such method or seed, or the run has several personal methods and none is named.
    """
    labels = {system["label"] for system in kept}
    if method is None:
        trained = [system for system in kept if system["kind"] in TRAINED] or kept
        personal = {s["label"] for s in trained if s["personal"]} or {s["label"] for s in trained}
        if len(personal) > 1:
            raise PeftuError(f"the run has several methods — choose with --method: {', '.join(sorted(personal))}")
        if not personal:
            raise PeftuError("the run kept no method — run it again")
        method = personal.pop()
    if method not in labels:  # as it was asked for: 'global+lora' is lora[warm_start=global]
        method = str(MethodSpec.parse(method))
    named = [system for system in kept if method in (system["label"], System.parse(system["label"]).method)]
    if not named:  # without its knobs, where that is clear
        named = [system for system in kept if System.parse(system["label"]).name == method]
        if len(several := {system["label"] for system in named}) > 1:
            raise PeftuError(f"the run has several {method} — choose with --method: {', '.join(sorted(several))}")
    if not named:
        raise PeftuError(f"the run has no modules of '{method}'{did_you_mean(method, labels)}")
    for system in named:
        if seed is None or system["seed"] == seed:
            return system
    raise PeftuError(f"the run has no modules for seed {seed} — there are {', '.join(str(s['seed']) for s in named)}")


# --- runs of earlier releases, which kept modules alone ---------------------------------------------------------------


def _of_collection(folder: Path, collection: Collection, moved: str | None, lab: Lab) -> ModuleFitted:
    made, run = collection.made, load_run(folder)
    system = System.parse(collection.label)
    name = system.base or collection.base
    about = {"place": collection.base, "fingerprint": collection.fingerprint, "dtype": made.get("dtype")}
    open_base(lab, name, about, str(folder), moved)
    job = job_of({**_resolved(run, made, name), "spec": MethodSpec.parse(system.method).model_dump()}, "store")
    prompt = Prompt.of(made["prompt"])
    task = TaskAnswers(run.record.task.name, run.record.task.kind, tuple(made["labels"]), prompt.words)
    rows, region = StoredRows(folder / MODULES, collection), Region(**made["region"])
    where = (job, task, collection.seed, lab, prompt, region, rows)
    shared = _shared(folder, collection)
    fitted = ModuleFitted(*where) if shared is None else JointFitted(*where, shared)
    fitted.fitted_in = there(about)
    fitted.remarks = remarks(fitted)
    if task.answers.labelled:
        fitted.thresholds = _thresholds(run, collection, task)
    return fitted


def _resolved(run: Run, made: dict[str, Any], base: str) -> dict[str, Any]:
    """Returns a job as the run's record has it; one with default settings where it has none."""
    key = {"method": made["method"], "knobs": made["knobs"], "base": base}
    for job in run.record.spec.get("jobs", ()):
        if job["train"] and key.items() <= job.items():
            return dict(job)
    return {**key, "region": None, "train": None, "start": None}


def _shared(folder: Path, codes: Collection) -> Tensor | None:
    """Returns [numbers] what the users of a joint method share; None for other methods."""
    made = codes.made
    if made.get("part") != CODES:
        return None
    label, needed = shared_label(codes.label), recipe(**{**made, "part": SHARED})
    with AdapterStore(folder / MODULES) as store:
        (kind,) = (k for k in store.collections() if (k.label, k.seed, k.recipe) == (label, codes.seed, needed))
        return store.get(kind, [EVERYONE])[0]


def _thresholds(run: Run, collection: Collection, task: TaskAnswers) -> Floats | None:
    """Returns [labels] what the run decided by: chosen on its validation rows of the same method and seed."""
    lines = run.predictions().filter(
        (pl.col("method") + "@" + pl.col("base") == collection.label)
        & (pl.col("seed") == collection.seed) & (pl.col("part") == "val") & pl.col("scores").is_not_null()
    )  # fmt: skip
    gold = [[label in given for label in task.labels] for given in lines["target"]]
    scores = np.array(lines["scores"].to_list(), dtype=np.float32).reshape(-1, len(task.labels))
    return task.answers.thresholds(scores, np.array(gold, dtype=bool).reshape(scores.shape))
