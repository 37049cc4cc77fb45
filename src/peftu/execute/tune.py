"""Settings for each method, chosen on validation rows: learning rate, epochs, own knobs, shrinkage and region.

Each method climbs from its defaults, one setting at a time to a neighbouring value, and keeps a move that lowers the
validation loss; at a top it goes on beside the next best choice. Every method gets the same users, seeds, number of
trials and longest training. A choice with more parameters a user than the budget allows is no trial: it is passed by.
Test rows are never scored. A trial that was made before is read, not run.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from pathlib import Path
from typing import Any

import numpy as np

from peftu.asked import SUFFIX, plain
from peftu.bank import Layout
from peftu.cells.fits import FitResult, Fits
from peftu.config import MethodSpec, RunSpec
from peftu.data.load import load_task
from peftu.data.problem import PARTS, Problem
from peftu.data.sources import writing_to
from peftu.data.splits import make_problem, make_split
from peftu.environment import current_environment
from peftu.errors import DivergedError, PeftuError
from peftu.files import write_atomic
from peftu.fitted.training import layout_of
from peftu.lab.progress import Reporter, Silent
from peftu.outside import parse_json
from peftu.plan import Job, is_joint, is_module, plan
from peftu.preset import ANY_BASE, WARM, Preset

STEP = 10**0.5  # between neighbouring learning rates
RATES = (1e-7, 1.0)  # least and most that is tried
EPOCHS = (2, 4, 8, 16)
SHRINK = (0.0, 0.03, 0.1, 0.3, 1.0)
DEPTHS = (1, 2, 4, 6, 12)
LEAST_GAIN = 0.002  # nats: what a move must gain to be worth taking

Settings = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """One method with one choice of settings.

    Attributes:
        settings: beside the method's defaults.
        loss: validation loss in nats, averaged over each user's rows, then users, then seeds; infinite where training
            on everyone diverged.
        seconds: what it took.
        parameters: numbers a user has of their own.
    """

    settings: Settings
    loss: float
    seconds: float
    parameters: int


class Trials:
    """The trials made so far, in a file beside the preset: one JSON line each, appended as soon as it is known."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, Trial] = {}
        if path.exists():
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
                try:
                    read = parse_json(line, halves=True)
                    key = read.pop("key")
                    loss = read.pop("loss")
                    self._known[key] = Trial(loss=inf if loss is None else loss, **read)
                except (ValueError, TypeError, KeyError):
                    raise PeftuError(f"{path}: line {number} is no trial — delete the line, or the file") from None

    def get(self, key: str, make: Callable[[], Trial]) -> Trial:
        """Returns the trial of this key; made, and kept, if it is not known."""
        if key not in self._known:
            self._known[key] = trial = make()
            with writing_to(self.path.parent), self.path.open("a", encoding="utf-8") as file:
                loss = trial.loss if isfinite(trial.loss) else None  # JSON has no infinity
                file.write(json.dumps({"key": key, **vars(trial), "loss": loss}) + "\n")
        return self._known[key]


def tune(
    spec: RunSpec,
    out: Path,
    trials: int = 12,
    parameters: int | None = None,
    raw: Path | None = None,
    reporter: Reporter | None = None,
) -> Preset:
    """Returns the preset of the settings found, also written to a JSON file.

    Args:
        spec: task, users, seeds and methods; the seeds should be none that results are reported on.
        out: the JSON file; an earlier preset in it keeps its methods that are not tuned again. Trials are kept
            beside it, so that tuning goes on where it stopped.
        trials: how many choices of settings each method tries, all of them within the limit of parameters.
        parameters: most numbers a user's module may have; None: no limit.
        raw: folder with the task's raw files.
        reporter: hears how far the work is.

    Raises:
        PeftuError: a task or method that cannot be tuned, or nothing within the budget.
    """
    reporter = reporter or Silent()
    if out.suffix != ".json" or out.is_dir():
        raise PeftuError(f"{out}: is no name of a preset — end --out in .json")
    for asked in spec.methods:
        if asked.name.endswith(SUFFIX):
            raise PeftuError(f"tune: {asked.name} trains what it guards — tune '{plain(asked)}'")
        if asked.params.get("method", "lora") != "lora":  # a preset has one entry for all modules of everyone
            raise PeftuError(f"tune: {asked} has no settings of its own — tune '{asked.params['method']}'")
    _check_entries(plan(spec))
    table = load_task(spec.task, raw, spec.task_options)
    problems = {seed: make_problem(table, table.card, make_split(table, spec.split, seed)) for seed in spec.seeds}
    if not all(len(problem.rows("val")) for problem in problems.values()):
        raise PeftuError("tune: the split has no validation rows — choose a larger validation share")
    fits = Fits(table.card, problems, spec.max_tokens, reporter, spec.max_answer_tokens, hardware=spec.hardware)
    with writing_to(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
    known = Trials(out.with_suffix(".trials.jsonl"))
    preset = _earlier(out, spec.task)
    for asked in spec.methods:
        search = _Search(spec, asked, fits, known, trials, parameters, reporter)
        best = search.climb()
        reporter.note(f"{asked}: validation loss {best.loss:.4f} with {best.settings or 'the defaults'}")
        methods = {base: dict(of) for base, of in preset.methods.items()}
        found = {base: dict(of) for base, of in preset.found.items()}
        on = search.job(best.settings).base or ANY_BASE
        name = _entry(search.job({}))
        methods.setdefault(on, {})[name] = search.written | best.settings
        found.setdefault(on, {})[name] = {
            **_how(spec, table.hash, len(search.seen), parameters, best),
            "region": search.region(best.settings),
        }
        preset = preset.model_copy(update={"methods": methods, "found": found})
        write_atomic(out, json.dumps(preset.model_dump(mode="json", exclude_defaults=True), indent=1) + "\n")
    return preset


def _entry(job: Job) -> str:
    """Returns what a method is called in a preset."""
    return WARM + job.spec.name if job.start else job.spec.name


def _check_entries(jobs: Sequence[Job]) -> None:
    """Checks that no method would be written over another.

    Raises:
        PeftuError: two have one entry in a preset.
    """
    known: dict[tuple[str, str | None], str] = {}
    for job in jobs:
        other = known.setdefault((_entry(job), job.base), job.label)
        if other != job.label:
            raise PeftuError(f"tune: {other} and {job.label} have one entry in a preset — tune each into its own --out")


class _Search:
    """The climb of one method."""

    def __init__(
        self,
        spec: RunSpec,
        asked: MethodSpec,
        fits: Fits,
        known: Trials,
        trials: int,
        parameters: int | None,
        reporter: Reporter,
    ) -> None:
        self.spec, self.asked, self.fits, self.known = spec, asked, fits, known
        self.left, self.parameters, self.reporter = trials, parameters, reporter
        if not (is_module(self.job({}).method) or is_joint(self.job({}).method)):
            raise PeftuError(f"tune: {asked.name} trains no module, it chooses as it is fitted — leave it out")
        self.seen: set[str] = set()

    @property
    def written(self) -> Settings:
        """Returns what the user wrote in brackets: what was found holds with it."""
        return {key: value for key, value in self.asked.params.items() if key != "warm_start"}

    def job(self, settings: Settings) -> Job:
        """Returns the method's job with these settings; what the user wrote in brackets stays."""
        method = self.asked.model_copy(update={"params": {**settings, **self.asked.params}})
        (job,) = plan(self.spec.model_copy(update={"methods": (method,)}))
        return job

    def climb(self) -> Trial:
        """Returns the best trial within the budgets.

        Raises:
            PeftuError: not even the smallest module fits the budget of parameters, or every trial diverged.
        """
        told = self.reporter.stage(f"tuning {self.asked}", self.left)
        best = self._try(self._begin())
        told(1)
        made = [best]
        while self.left > 0:
            here = self._open([best, *sorted(made, key=lambda trial: trial.loss)])
            if here is None:
                within = "" if self.parameters is None else f" within {self.parameters:,} parameters"
                self.reporter.note(
                    f"{self.asked}: all {len(made)} choices{within} are tried, {self.left} trials are left"
                )
                break
            for key, values in self._axes(here.settings):
                for value in values:
                    if self.left <= 0 or not self._is_trial({**here.settings, key: value}):
                        continue
                    trial = self._try({**here.settings, key: value})
                    told(1)
                    made.append(trial)
                    if trial.loss < best.loss - LEAST_GAIN:
                        best = here = trial
                        break  # the axis is looked at again from here, on the next round
        if not isfinite(best.loss):
            raise PeftuError(f"tune: {self.asked} diverged with every choice tried — write a lower lr in its brackets")
        return best

    def _begin(self) -> Settings:
        """Returns the defaults or, where they are over the budget, the choice within it that takes fewest moves.

        Raises:
            PeftuError: each move to a smaller module ends over the budget.
        """
        reached: dict[str, Settings] = {"": {}}
        least = self._layout({}).parameters
        while reached:
            for settings in reached.values():
                if self._fits(settings, self.parameters):
                    return settings
            widths = {mark: self._layout(settings).parameters for mark, settings in reached.items()}
            least = min(least, *widths.values())
            reached = {
                self._mark(move): move
                for mark, settings in reached.items()
                for move in self._moves(settings)
                if self._fits(move, widths[mark] - 1)
            }
        raise PeftuError(
            f"tune: {self.asked} has {least:,} parameters a user or more, and at most {self.parameters:,} are allowed "
            "— raise --parameters, or write a smaller module in its brackets"
        )

    def _open(self, trials: Sequence[Trial]) -> Trial | None:
        """Returns the first of these with a neighbour that is still to be tried."""
        return next((trial for trial in trials if any(map(self._is_trial, self._moves(trial.settings)))), None)

    def _is_trial(self, settings: Settings) -> bool:
        """Returns whether a choice is within the budget and was not tried before."""
        return self._mark(settings) not in self.seen and self._fits(settings, self.parameters)

    def _fits(self, settings: Settings, most: int | None) -> bool:
        """Returns whether the base can host the module, and it has so many parameters at most."""
        try:
            width = self._layout(settings).parameters
        except PeftuError:  # a rank above the base's width, say: no choice on this base
            return False
        return most is None or width <= most

    def _layout(self, settings: Settings) -> Layout:
        return layout_of(self.job(settings), self.fits.lab, self.fits.prompt, self.fits.users)

    def _moves(self, settings: Settings) -> Iterator[Settings]:
        """Yields the settings with one of them moved to a neighbouring value."""
        for key, values in self._axes(settings):
            yield from ({**settings, key: value} for value in values)

    def _axes(self, settings: Settings) -> Iterator[tuple[str, list[Any]]]:
        """Yields a setting and its neighbouring values."""
        job = self.job(settings)
        base = self.fits.lab.base(job.base or "")
        now = {**vars(job.method), **job.train.model_dump(), "depth": job.region_on(base).depth}
        rates = (round_to(now["lr"] * factor) for factor in (STEP, 1, 1 / STEP))
        ladders: dict[str, Sequence[Any]] = {
            "lr": [rate for rate in rates if RATES[0] <= rate <= RATES[1]],
            "epochs": EPOCHS,
            **getattr(type(job.method), "search", {}),
            **({"shrink": SHRINK} if job.start else {}),
            "depth": [depth for depth in DEPTHS if depth <= base.family.layers],
        }
        fixed = {*self.asked.params, *getattr(type(job.method), "region", {})}
        for key, ladder in ladders.items():
            if key in fixed:
                continue
            ordered = list(dict.fromkeys([*ladder, now[key]]))
            if all(isinstance(value, int | float) for value in ordered):
                ordered.sort(reverse=key == "lr")
            place = ordered.index(now[key])
            yield key, [ordered[p] for p in (place - 1, place + 1) if 0 <= p < len(ordered)]

    def _mark(self, settings: Settings) -> str:
        return json.dumps({**self.job(settings).resolved(), "region": self.region(settings)}, sort_keys=True)

    def region(self, settings: Settings) -> str:
        """Returns the region that modules with these settings act in, the base's default spelt out."""
        job = self.job(settings)
        return str(job.region_on(self.fits.lab.base(job.base or "")))

    def _try(self, settings: Settings) -> Trial:
        mark = self._mark(settings)
        self.seen.add(mark)
        self.left -= 1
        split = {seed: problem.split_hash for seed, problem in self.fits.problems.items()}
        on = self.fits.lab.base(self.job(settings).base or "").hardware
        key = json.dumps([mark, split, self.parameters, on.dtype, on.quantize])
        key = hashlib.sha256(key.encode()).hexdigest()[:16]
        return self.known.get(key, lambda: self._make(settings))

    def _make(self, settings: Settings) -> Trial:
        job = self.job(settings)
        width = self._layout(settings).parameters
        try:
            cells = {seed: self.fits.run(job, seed) for seed in self.fits.problems}
        except DivergedError:
            return Trial(settings, inf, 0.0, width)
        losses = [validation_loss(self.fits.problems[seed], cell) for seed, cell in cells.items()]
        seconds = sum(cell.cost.seconds for cell in cells.values())
        return Trial(settings, float(np.mean(losses)), seconds, width)


def validation_loss(problem: Problem, cell: FitResult) -> float:
    """Returns the mean over users of the loss of their validation rows, in nats.

    Of labels it is a mean over a user's rows; of free answers a mean over all their tokens, as perplexity has it.
    """
    validation = problem.part[cell.rows] == PARTS.index("val")
    rows = cell.rows[validation]
    scores, target = cell.scores[validation].astype(np.float64), problem.target[rows]
    size = np.ones(len(rows))
    if not problem.card.answers.labelled:
        loss, size = -scores[:, 0], scores[:, 1]
    elif not problem.card.answers.exclusive:
        loss = (np.logaddexp(0, scores) - scores * target).mean(1)
    else:
        loss = -(scores * target).sum(1)
    user = problem.user[rows]
    total, count = np.bincount(user, loss), np.bincount(user, size)
    return float((total[count > 0] / count[count > 0]).mean())


def round_to(value: float, digits: int = 2) -> float:
    """Returns the value with so many significant digits, so that climbing up and down meets the same numbers."""
    return float(f"{value:.{digits - 1}e}")


def _earlier(out: Path, task: str) -> Preset:
    from peftu.preset import load_preset

    if out.exists():
        return load_preset(str(out))
    return Preset(name=out.stem, note=f"Found by peftu tune on validation rows of {task}.")


def _how(spec: RunSpec, data: str, trials: int, parameters: int | None, best: Trial) -> dict[str, Any]:
    """Returns how a method's settings were found."""
    machine = current_environment()
    return {
        "task": spec.task,
        "data": data,
        "seeds": list(spec.seeds),
        "split": spec.split.model_dump(mode="json", exclude_defaults=True),
        "trials": trials,
        "parameters_at_most": parameters,
        "loss": best.loss,
        "parameters": best.parameters,
        "machine": machine.model_dump(mode="json"),
    }
