"""A fitted method in a folder: JSON, tensors, and module rows in a store; nothing is ever unpickled.

``fitted.json`` is written last, by rename. A folder of a run refers to the run's own store of modules, and a guard to
the folders of the two methods that it is around.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from peftu.base.prompt import Prompt
from peftu.base.weights import lasting_name
from peftu.config import MethodSpec, RegionSpec, TrainSpec, validated
from peftu.data.problem import Floats
from peftu.data.sources import writing_to
from peftu.errors import PeftuError
from peftu.files import only_one, owner_only, replacing, write_atomic
from peftu.fitted.elsewhere import fitted_here, remarks, there
from peftu.fitted.fitted import Fitted, State, TaskAnswers
from peftu.fitted.kinds import KINDS
from peftu.fitted.modules import JointFitted, ModuleFitted
from peftu.fitted.opening import open_base
from peftu.fitted.rows import MemoryRows, ModuleRows, StoredRows
from peftu.lab.lab import Lab
from peftu.methods.everyone import method_class
from peftu.outside import parse_json
from peftu.plan import Job
from peftu.store import AdapterStore, Collection, is_store, recipe

ABOUT, ROWS, LOCK = "fitted.json", "modules", ".lock"
CODES = "codes"  # the part of a joint method that is each user's own
FORMAT = 1


def folder_name(label: str, seed: int) -> str:
    """Returns the name of a system's folder in a run: a hash, since a label may hold any sign."""
    return hashlib.sha256(f"{label}\x1f{seed}".encode()).hexdigest()[:16]


def save(
    fitted: Fitted, folder: Path, rows: Path | None = None, beside: Mapping[str, str] | None = None, place: int = 0
) -> Path:
    """Returns the folder that now holds a fitted method.

    Args:
        fitted: what is kept.
        folder: new, or an earlier state of the same.
        rows: a store of modules that holds its rows already; None: they are put into one in the folder.
        beside: of a guard, names of the folders beside this one of the methods 'inner' and 'fallback'; None: both are
            kept within.
        place: among the systems of a run.

    Raises:
        PeftuError: the folder cannot be written to.
    """
    folder = Path(folder)
    state = fitted.state()
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        owner_only(folder)
        about = _about(fitted, place) | {"state": state.about}
        if isinstance(fitted, ModuleFitted) and fitted.rows is not None:
            about["rows"] = os.path.relpath(rows or folder / ROWS, folder)
            state.tensors.pop("rows", None), state.about.pop("users", None), state.about.pop("train_rows", None)
            if rows is None:
                _store_rows(fitted, fitted.rows, folder / ROWS)
        if around := fitted.around:
            names = beside or {role: role for role in around}
            about["around"] = {role: name if beside is None else f"../{name}" for role, name in names.items()}
            if beside is None:
                for role, part in around.items():
                    save(part, folder / role)
        with only_one(folder / LOCK) if (folder / ABOUT).exists() else nullcontext():
            revision = _write(folder, about, state)
        if folder == fitted.folder:
            fitted.revision = revision
    return folder


def keep(fitted: Fitted) -> None:
    """Writes the present state over that in the fitted method's own folder; rows in a store are there already.

    Raises:
        PeftuError: another process has changed the folder since it was opened.
    """
    assert fitted.folder is not None  # noqa: S101  (the caller has looked)
    for part in fitted.around.values():
        if part.folder is not None:
            keep(part)
    if isinstance(fitted, ModuleFitted):
        _prune(fitted, fitted.folder)
        return
    folder, state = fitted.folder, fitted.state()
    with writing_to(folder), only_one(folder / LOCK):
        about = read_about(folder)
        if about["tensors"] != fitted.revision:
            changed = "another process has changed it since it was opened, so nothing is changed now"
            raise PeftuError(f"{folder}: {changed} — open it again and repeat")
        fitted.revision = _write(folder, about | {"state": state.about}, state)


def _prune(fitted: ModuleFitted, folder: Path) -> None:
    """Drops what was kept of how deleted modules read."""
    about = read_about(folder)
    readings = about["base"].get("readings", {})
    gone = set(readings) - fitted.holding(list(readings))
    if gone:
        with writing_to(folder), only_one(folder / LOCK):
            about["base"]["readings"] = {mark: read for mark, read in readings.items() if mark not in gone}
            write_atomic(folder / ABOUT, json.dumps(about, ensure_ascii=False) + "\n", private=True)


def load(
    folder: Path,
    lab: Lab | None = None,
    base: str | None = None,
    where: str | None = None,
    with_base: bool = True,
) -> Fitted:
    """Returns the fitted method that a folder holds; what is enrolled or forgotten in it is kept there at once.

    Args:
        folder: as `save` made it.
        lab: bases, contexts and embeddings; None: one of its own.
        base: where the base is now, if it has moved; it must be the same.
        where: what it is part of, for messages; None: the folder.
        with_base: False: the base is not looked for; users can be listed and forgotten, and nobody is answered.

    Raises:
        PeftuError: no fitted method there, a damaged or newer one, or another base than it was fitted on.
    """
    folder, lab = Path(folder), lab or Lab()
    about, tensors = _read(folder)
    job, prompt = job_of(about["job"], about["label"]), Prompt.of(about["prompt"])
    task = TaskAnswers(**{**about["task"], **{key: tuple(about["task"][key]) for key in ("labels", "words")}})
    if with_base and job.base is not None:
        open_base(lab, job.base, about["base"], where or str(folder), base)
    parts = (job, task, about["seed"], lab, prompt)
    kind, state = KINDS[about["kind"]], State(about["state"], tensors)
    beside: dict[str, Any] = {
        role: load(folder / name, lab, base, with_base=with_base) for role, name in about.get("around", {}).items()
    }
    if "rows" in about:
        beside["rows"] = _stored_rows(folder / about["rows"], about)
    fitted = kind.of(state, *parts, **beside)
    fitted.notes = about["notes"]
    if job.base is not None:
        fitted.fitted_in = there(about["base"])
        if with_base:
            fitted.remarks = remarks(fitted)
    fitted.thresholds = None if about["thresholds"] is None else _floats(about["thresholds"])
    fitted.folder, fitted.revision = folder, about["tensors"]
    return fitted


def gather(
    parts: Sequence[Path],
    folder: Path,
    rows: Path,
    job: Job,
    place: int,
    thresholds: Floats | None,
    notes: Mapping[str, Any],
    provenance: Mapping[str, object],
) -> bool:
    """Returns whether a folder now holds what several hold of one fitted method, each with other users' modules.

    Args:
        parts: folders that `save` made, of one method at one seed.
        folder: new.
        rows: the store that takes the module rows of all.
        job: what the method is called here, and with which settings it can be enrolled in.
        place: among the systems of a run.
        thresholds: [labels] what labels are named by, chosen on all users' rows.
        notes: choices and counts over all parts.
        provenance: the data that all modules were trained on, as JSON values.

    Raises:
        PeftuError: the folder cannot be written to, or a part is damaged.
    """
    about = read_about(parts[0])
    about |= {
        "place": place,
        "label": job.full_label,
        "job": {**job.resolved(), "spec": job.spec.model_dump(mode="json")},
        "thresholds": _written(thresholds),
        "notes": dict(notes),
    }
    if "rows" in about:
        holding = parts if job.card.scope != "global" else parts[:1]  # a module of everyone's is in each of them
        made_of = {**provenance, "train": job.train.model_dump(mode="json")}
        if not sum(_copied(part / read_about(part)["rows"], rows, job.full_label, made_of) for part in holding):
            return False
        about["rows"] = os.path.relpath(rows, folder)
    with writing_to(folder):
        tensors = Path(about["tensors"]).name
        shutil.copyfile(parts[0] / tensors, folder / tensors)
        for name in about.get("around", {}).values():  # fitted on all users, so the same in each
            shutil.copytree(parts[0] / name, folder / name)
        write_atomic(folder / ABOUT, json.dumps(about, ensure_ascii=False) + "\n", private=True)
    return True


def _copied(source: Path, target: Path, label: str, provenance: Mapping[str, object]) -> int:
    """Returns how many module rows were copied from one store to another, under a method's label there."""
    if not is_store(source):
        return 0
    copied = 0
    with AdapterStore(source) as part, AdapterStore(target, create=True) as store:
        for collection in part.collections():
            keys = part.keys(collection)
            counts = part.train_rows(collection)
            store.add(
                dataclasses.replace(collection, label=label),
                keys,
                part.get(collection, keys),
                [counts[k] for k in keys],
                provenance=provenance,
            )
            copied += len(keys)
    return copied


def read_about(folder: Path) -> dict[str, Any]:
    """Returns what a folder says of its fitted method.

    Raises:
        PeftuError: there is none, it is damaged, or of a newer version.
    """
    path = folder / ABOUT
    try:
        about = parse_json(path.read_bytes(), halves=True)
    except FileNotFoundError:
        raise PeftuError(f"{folder}: holds no fitted method — pass a folder that 'save' made, or a run's") from None
    except (OSError, ValueError):
        raise PeftuError(f"{path}: is damaged — restore it, or fit again") from None
    if not isinstance(about, dict) or not isinstance(about.get("format"), int):
        raise PeftuError(f"{path}: is damaged — restore it, or fit again")
    if about["format"] > FORMAT:
        raise PeftuError(f"{path}: format {about['format']} is newer than this peftu's {FORMAT} — upgrade peftu")
    return about


def collection_of(fitted: ModuleFitted) -> Collection:
    """Returns what the rows of a fitted method are kept as in a store."""
    base = fitted.base
    made = {**fitted.made, "region": {"depth": fitted.region.depth, "span": fitted.region.span}}
    if isinstance(fitted, JointFitted):
        made["part"] = CODES
    place = (fitted.seed, lasting_name(cast(str, fitted.job.base)), base.fingerprint)
    return Collection(fitted.label, *place, fitted.layout.width, recipe(**made))


# --- parts -----------------------------------------------------------------------------------------------------------


def _about(fitted: Fitted, place: int) -> dict[str, Any]:
    base, job = None, fitted.job
    prompt = fitted.prompt
    if job.base is not None:
        frozen = fitted.lab.base(job.base)
        if isinstance(fitted, ModuleFitted):  # what prompting methods show changes the frame
            prompt = frozen.recorded(prompt)
        base = {
            "place": lasting_name(job.base),
            "fingerprint": frozen.fingerprint,
            **(fitted.fitted_in or fitted_here(fitted, frozen)),
        }
    return {
        "format": FORMAT,
        "kind": fitted.kind,
        "personal": fitted.personal,
        "place": place,
        "label": fitted.label,
        "seed": fitted.seed,
        "job": {**job.resolved(), "spec": job.spec.model_dump(mode="json")},
        "task": fitted.task._asdict(),
        "prompt": dataclasses.asdict(prompt),
        "base": base,
        "thresholds": _written(fitted.thresholds),
        "notes": fitted.notes,
    }


def job_of(values: Mapping[str, Any], where: str) -> Job:
    """Returns the job that `Job.resolved` gave this of, with the ``spec`` that it was asked for as."""
    method = validated(method_class(values["method"], values["knobs"]), values["knobs"], where)
    region = validated(RegionSpec, values["region"], where) if values["region"] else None
    train, start = validated(TrainSpec, values["train"] or {}, where), values["start"]
    spec = MethodSpec(**values.get("spec", {"name": values["method"]}))
    offset = values.get("offset")  # which earlier releases did not know
    return Job(
        spec, method, values["base"], region, train,
        job_of(start, where) if start else None, job_of(offset, where) if offset else None,
    )  # fmt: skip


def _stored_rows(store: Path, about: Mapping[str, Any]) -> StoredRows:
    """Returns the rows of a fitted method that stay in a store."""
    with AdapterStore(store) as opened:
        matching = [kind for kind in opened.collections() if (kind.label, kind.seed) == (about["label"], about["seed"])]
    if not matching:
        raise PeftuError(f"{store}: has no modules of {about['label']} — restore the folder, or fit again")
    return StoredRows(store, matching[0])


def _store_rows(fitted: ModuleFitted, rows: ModuleRows, folder: Path) -> None:
    keys = rows.keys()
    counts = dict(zip(rows.order, rows.train_rows, strict=True)) if isinstance(rows, MemoryRows) else {}
    with AdapterStore(folder, create=True) as store:
        if keys:
            store.add(collection_of(fitted), keys, rows.get(keys), [counts.get(key, 0) for key in keys])


def _write(folder: Path, about: dict[str, Any], state: State) -> str:
    """Writes tensors under a name of their own, which is returned, then the JSON that has it; earlier ones go."""
    tensors = {name: torch.from_numpy(np.array(tensor)).contiguous() for name, tensor in state.tensors.items()}
    name = f"{uuid.uuid4().hex}.safetensors"
    with replacing(folder / name) as part:
        save_file(tensors, part)
    write_atomic(folder / ABOUT, json.dumps(about | {"tensors": name}, ensure_ascii=False) + "\n", private=True)
    for other in folder.glob("*.safetensors"):
        if other.name != name:
            other.unlink()
    return name


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns what a folder says of its fitted method, and the tensors, as of one moment: others may write to it."""
    while True:
        about = read_about(folder)
        try:
            return about, _read_tensors(folder, about["tensors"])
        except PeftuError:
            if read_about(folder)["tensors"] == about["tensors"]:
                raise


def _read_tensors(folder: Path, name: str) -> dict[str, Any]:
    try:
        return {key: tensor.numpy() for key, tensor in load_file(folder / Path(name).name).items()}
    except (OSError, SafetensorError):
        raise PeftuError(f"{folder}: its tensors are missing or damaged — restore it, or fit again") from None


def _written(thresholds: Floats | None) -> list[float | str] | None:
    return None if thresholds is None else [_bound(value) for value in thresholds]


def _bound(value: float) -> float | str:
    """Returns a threshold as JSON, which has no infinity."""
    return float(value) if abs(float(value)) != float("inf") else ("inf" if value > 0 else "-inf")


def _floats(values: Sequence[float | str]) -> Any:
    return np.array([float(value) for value in values], dtype=np.float64)
