"""Fills cells: fits and scores what a spec says, and leaves files in a folder. Whoever asked for it commits them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import polars as pl
from safetensors.torch import load_file, save_file

from peftu.base.hardware import described
from peftu.base.model import FrozenBase
from peftu.cells.cache import CELL, USERS
from peftu.cells.fits import Fits
from peftu.cells.frames import scores_frame
from peftu.cells.spec import CellSpec
from peftu.environment import current_environment
from peftu.errors import PeftuError
from peftu.files import private_file
from peftu.fitted.folder import load, save
from peftu.fitted.offsets import Offset, fit_offset, offset_key
from peftu.fitted.reference import ReferenceFitted
from peftu.fitted.training import Modules, everyone_key, fit_everyone, layout_of
from peftu.lab.lab import Lab
from peftu.lab.memo import Billed
from peftu.lab.progress import Reporter, Silent
from peftu.memory import give_back
from peftu.store import EVERYONE
from peftu.train import Trained, UnitLog

SCORES, LOG, ROW = "scores.parquet", "train_log.jsonl", "row.safetensors"
FITTED = "fitted"

About = dict[str, Any]


class Filler:
    """Fills one cell after another; bases stay loaded, and what was read of texts while cells of the same texts come.

    Args:
        reporter: hears how far long work is.
        bases: loaded already, by name.
    """

    def __init__(self, reporter: Reporter | None = None, bases: dict[str, FrozenBase] | None = None) -> None:
        self.reporter: Reporter = reporter or Silent()
        self.bases: dict[str, FrozenBase] = {} if bases is None else bases
        self._texts: str | None = None
        self._lab: Lab | None = None

    def fill(self, spec: CellSpec, needs: Mapping[str, Path], folder: Path) -> About:
        """Returns what a cell says of itself, after leaving its files in a folder.

        Args:
            spec: the cell.
            needs: name -> folder of each cell that it needs.
            folder: empty.

        Raises:
            PeftuError: the method cannot be fitted on this problem.
        """
        fits = self._fits(spec)
        for need in spec.needs:
            _take(need, needs[need.name], fits)
        fill = {"everyone": self._everyone, "offset": self._offset}.get(spec.part, self._scored)
        about = fill(spec, fits, folder)
        pl.DataFrame({"user_id": pl.Series(spec.users, dtype=pl.String)}).write_parquet(private_file(folder / USERS))
        give_back()
        return {
            "job": spec.job.resolved(),
            "seed": spec.seed,
            "part": spec.part,
            "users": len(spec.users),
            "texts": len(fits.lab.texts),
            "cuts": {base: [cuts.judged, cuts.beside] for base, cuts in fits.lab.cuts.items()},
            "answers_cut": dict(fits.lab.answers_cut),
            "items": len(fits.lab.items),
            "environment": current_environment(self._device(spec)).model_dump(mode="json"),
            **about,
        }

    def _device(self, spec: CellSpec) -> str | None:
        """Returns what the base of a cell computed on; None where none was read."""
        base = self.bases.get(spec.job.base or "")
        return None if base is None else described(base.device)

    def _fits(self, spec: CellSpec) -> Fits:
        """Returns the fits of a cell's problem, over the lab of the cell before where that has read the same texts."""
        lab = self._lab if self._texts == spec.texts else None
        self._lab = None  # let go of what was read before the next texts are
        reading = spec.reading
        fits = Fits(
            spec.problem.card, {spec.seed: spec.problem}, reading.max_tokens, self.reporter, reading.answer_tokens,
            reading.writes, lab, None if spec.base is None else spec.base[1],
        )  # fmt: skip
        fits.lab.loaded = self.bases
        self._lab, self._texts = fits.lab, spec.texts
        return fits

    def _everyone(self, spec: CellSpec, fits: Fits, folder: Path) -> About:
        with fits.lab.memo.alone() as cost:
            modules = fit_everyone(spec.problem, spec.job, spec.seed, fits.lab, fits.prompt)
        save_file({"row": modules.trained.rows[0].contiguous()}, folder / ROW)
        _write_log(folder, modules.trained.logs)
        return {**_cost(cost, spec), "train_rows": modules.train_rows[0]}

    def _offset(self, spec: CellSpec, fits: Fits, folder: Path) -> About:
        with fits.lab.memo.alone() as cost:
            offset = fit_offset(spec.problem, spec.job, spec.seed, fits.lab, fits.prompt)
        offset.scores.write_parquet(private_file(folder / SCORES))
        _write_log(folder, [])
        save(offset.fitted, folder / FITTED)
        return _cost(cost, spec)

    def _scored(self, spec: CellSpec, fits: Fits, folder: Path) -> About:
        result = (fits.run if spec.part == "scores" else fits.without)(spec.job, spec.seed)
        give_back()  # here, not where pairs are scored: whoever serves one user would wait for it
        scores_frame(spec.problem, result).write_parquet(private_file(folder / SCORES))
        _write_log(folder, result.logs)
        save(result.fitted, folder / FITTED)
        return {
            **_cost(result.cost, spec),
            "answers": len(result.rows),
            "ms_per_answer": result.ms_per_answer,
            "parameters": result.parameters,
            "bytes_per_user": result.bytes_per_user,
            "notes": result.notes,
            "diverged": result.diverged,
        }


def _take(need: CellSpec, folder: Path, fits: Fits) -> None:
    """Puts what is fitted on everyone where fits look for it; what it cost is in its own cell."""
    take, key_of = (_opened_offset, offset_key) if need.part == "offset" else (_opened_everyone, everyone_key)
    key = key_of(need.problem, need.job, need.seed)
    if fits.lab.memo.has(key):
        return
    try:
        fits.lab.memo.put(key, take(need, folder, fits))
    except FileNotFoundError:
        raise PeftuError(f"cell {need.name}: was taken away while it was needed — start again") from None


def _opened_offset(need: CellSpec, folder: Path, fits: Fits) -> Offset:
    scores = pl.read_parquet(folder / SCORES, glob=False)
    return Offset(cast(ReferenceFitted, load(folder / FITTED, fits.lab)), scores)


def _opened_everyone(need: CellSpec, folder: Path, fits: Fits) -> Modules:
    about = json.loads((folder / CELL).read_bytes())
    logs = [UnitLog(**json.loads(line)) for line in (folder / LOG).read_text(encoding="utf-8").splitlines()]
    rows = load_file(folder / ROW)["row"][None]
    layout = layout_of(need.job, fits.lab, fits.prompt, 1)
    region = need.job.region_on(fits.lab.base(cast(str, need.job.base)))
    return Modules(layout, region, Trained(rows, logs), (EVERYONE,), (about["train_rows"],))


def _cost(cost: Billed, spec: CellSpec) -> About:
    """Returns what a cell used: seconds of its own, and those of each thing that other cells may have used, too."""
    shared = {
        hashlib.sha256(f"{spec.texts} {key!r}".encode()).hexdigest()[:16]: seconds for key, seconds in cost.bill.items()
    }
    return {"seconds": cost.own, "shared_seconds": shared, "peak_rss_bytes": cost.peak_rss_bytes}


def _write_log(folder: Path, logs: list[UnitLog]) -> None:
    """Writes how each unit's training went, in the order of the cell's users."""
    (folder / LOG).write_text("".join(f"{json.dumps(asdict(log))}\n" for log in logs), encoding="utf-8")
