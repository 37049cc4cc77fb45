"""What a run will do, resolved before any work: each method with its base, knobs and training settings."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from peftu.asked import SUFFIX, plain, with_guarded
from peftu.base.cards import bases
from peftu.config import MethodSpec, RegionSpec, RunSpec, TrainSpec, validated
from peftu.data.task import TaskCard
from peftu.errors import PeftuError
from peftu.methods.everyone import for_everyone, method_class
from peftu.methods.method import MethodCard, methods, region_of
from peftu.registry import did_you_mean
from peftu.system import System

if TYPE_CHECKING:  # a plan needs no torch
    from peftu.base.model import FrozenBase
    from peftu.base.region import Region


@dataclass(frozen=True)
class Job:
    """One method of a run, with every default filled in.

    Attributes:
        spec: as asked for.
        method: the method with its knobs.
        base: name of its base, or None.
        region: where its modules act; None: the base's default.
        train: how its modules are trained.
        start: the global job whose result it starts from, if any.
        offset: the job whose scores its modules' are added to, if any.
    """

    spec: MethodSpec
    method: Any
    base: str | None
    region: RegionSpec | None
    train: TrainSpec
    start: "Job | None" = None
    offset: "Job | None" = None

    @property
    def card(self) -> MethodCard:
        """Returns the method's card."""
        return self.method.card  # type: ignore[no-any-return]

    @property
    def uses_others_labels(self) -> bool:
        """Returns whether a user's prediction depends on other users' labels."""
        jobs = (self, self.start, self.offset)
        return any(job.card.uses_others_labels for job in jobs if job is not None)

    @property
    def label(self) -> str:
        """Returns the method with its knobs, as it stands in predictions and tables."""
        return str(self.spec.model_copy(update={"base": None}))

    @property
    def system(self) -> System:
        """Returns the job's id in runs, judgements and reports."""
        return System(self.label, self.base)

    @property
    def full_label(self) -> str:
        """Returns the label with the base, where there is one."""
        return self.system.label

    @property
    def untrained(self) -> str:
        """Returns what answers for users whose modules could not be trained, in words."""
        if self.start is not None:
            return "everyone's module"
        return "the base" if self.offset is None else self.offset.full_label

    def region_on(self, base: "FrozenBase") -> "Region":
        """Returns where the modules act on this base.

        Raises:
            PeftuError: the method cannot run on bases of this family, or the region does not fit.
        """
        if base.family.kind not in self.card.families:
            known = ", ".join(name for name in bases.names() if bases.get(name).family in self.card.families)
            hosts, kind = (names.replace("_", "-") for names in (" or ".join(self.card.families), base.family.kind))
            where = f"method {self.card.name}"
            raise PeftuError(f"{where}: needs a base of family {hosts}, {base.name} is of family {kind} — use {known}")
        return base.region(region_of(self.method, self.region or base.default_region))

    def resolved(self) -> dict[str, Any]:
        """Returns everything about the job as JSON values."""
        knobs = self.method.model_dump(mode="json") if isinstance(self.method, BaseModel) else {}
        return {
            "method": self.card.name,
            "base": self.base,
            "knobs": knobs,
            "region": self.region.model_dump(mode="json") if self.region else None,
            "train": self.train.model_dump(mode="json") if is_module(self.method) else None,
            "start": self.start.resolved() if self.start else None,
            "offset": self.offset.resolved() if self.offset else None,
        }


# Kind of method -> what its classes have and no kind before it: see the protocols in `peftu.methods`.
MARKS = {"reference": "fit", "joint": "compose", "module": "tensors", "prompted": "composer"}
UNTRAINED = "untrained"  # the base as it is


def kind_of(method: object) -> str:
    """Returns the kind of a method or of its class: what runs it is told by `peftu.fitted.kinds`."""
    return next((kind for kind, mark in MARKS.items() if hasattr(method, mark)), UNTRAINED)


def is_module(method: object) -> bool:
    """Returns whether a method trains modules on a base (`ModuleMethod`)."""
    return kind_of(method) in ("module", "joint")


def is_joint(method: object) -> bool:
    """Returns whether a method composes modules of what is shared and of users' codes (`JointMethod`)."""
    return kind_of(method) == "joint"


def is_reference(method: object) -> bool:
    """Returns whether a method is fitted on labels and features (`ReferenceMethod`)."""
    return kind_of(method) == "reference"


def plan(spec: RunSpec) -> list[Job]:
    """Returns the run's jobs, in the order asked for; those that guarded methods need stand before them.

    Raises:
        PeftuError: an unknown method or knob, a method on a base that it cannot use, the same method twice, or another
            package's method whose class lacks what a run calls.
    """
    specs = with_guarded(spec.methods)
    jobs = [dataclasses.replace(_job(spec, plain(method)), spec=method) for method in specs]
    seen: set[tuple[str, str | None]] = set()
    for job in jobs:
        if (job.label, job.base) in seen:
            raise PeftuError(f"methods: '{job.spec}' stands twice — name each method once")
        seen.add((job.label, job.base))
    return jobs


def without_settings(spec: RunSpec, jobs: Sequence[Job]) -> list[str]:
    """Returns the methods that train modules and of which the run's preset knows nothing: they keep their defaults."""
    trained = (job for job in jobs if spec.preset and is_module(job.method) and not job.spec.name.endswith(SUFFIX))
    return [job.full_label for job in trained if str(job.spec) not in spec.settings]


def check_kind(jobs: Sequence[Job], card: TaskCard) -> None:
    """Checks that every method can answer a task of this kind.

    Raises:
        PeftuError: the task asks for free text and a method chooses among labels.
    """
    for spec in (job.spec for job in jobs if not card.answers.labelled and job.spec.name.endswith(SUFFIX)):
        raise PeftuError(
            f"method {spec.name}: keeps modules by the rows they get right, and task {card.name} has free text — "
            f"use {plain(spec)}"
        )
    for job in [*jobs, *(job.offset for job in jobs if job.offset is not None)]:
        if not card.answers.labelled and is_reference(job.method):
            able = ", ".join(name for name in methods.names() if not is_reference(methods.get(name)))
            raise PeftuError(f"method {job.card.name}: needs labels, and task {card.name} has free text — use {able}")


def _check_finite(method: object, where: str) -> None:
    """Checks a method's knobs, whoever wrote its class.

    Raises:
        PeftuError: one is infinite or not a number.
    """
    for knob, value in vars(method).items():
        if isinstance(value, float) and not isfinite(value):
            raise PeftuError(f"{where}: {knob}: is {value} — write a finite number")


def _job(spec: RunSpec, choice: MethodSpec) -> Job:
    cls = method_class(choice.name, choice.params)
    where = f"method {choice.name}"
    if is_reference(cls) and not hasattr(cls, "restore"):
        mend = "add it (see ReferenceMethod in peftu.methods.method)"
        raise PeftuError(f"{where}: has no restore, so what it fits could not be kept — {mend}")
    ours = TrainSpec.model_fields if is_module(cls) else {}
    preset = spec.settings.get(str(choice), {})
    train_keys = {key: value for key, value in choice.params.items() if key in ours}
    region_keys = {key: value for key, value in choice.params.items() if ours and key in RegionSpec.model_fields}
    given = {**preset, **choice.params}
    knobs = {key: given[key] for key in given if key not in ours and not (ours and key in RegionSpec.model_fields)}
    card: MethodCard = cls.card
    if card.needs_base == "no" and choice.base:
        raise PeftuError(f"{where}: takes no base — write '{choice.name}' without '@{choice.base}'")
    method = validated(cls, knobs, where)
    _check_finite(method, where)
    needed = card.needs_base == "yes" or (card.needs_base == "optional" and getattr(method, "reads_base", True))
    base = choice.base or (spec.base if needed else None)
    region = spec.region
    for key in region_keys.keys() & getattr(method, "region", {}).keys():
        raise PeftuError(f"{where}: acts at {key}={method.region[key]} only — take {key} out")
    low = {key: value for key, value in preset.items() if key in RegionSpec.model_fields}
    if region_keys or low:
        region = validated(RegionSpec, {**low, **(region.model_dump() if region else {}), **region_keys}, where)
    defaults: dict[str, Any] = getattr(cls, "train_defaults", {})
    if not is_module(method):
        return Job(choice, method, base, region, validated(TrainSpec, spec.train, "train"))
    common = dict(spec.train)
    if card.scope != "user":  # a shared module has nobody to start from
        common.pop("warm_start", None), common.pop("shrink", None)
        for key in {"warm_start", "shrink"} & set(train_keys):
            raise PeftuError(f"{where}: {key} is for modules of single users — take it out")
    low = {key: value for key, value in preset.items() if key in ours}
    values = {**defaults, **low, **common, **train_keys}
    train = validated(TrainSpec, values, where)
    if train.warm_start == "none" and train.shrink:
        raise PeftuError(f"{where}: shrink pulls towards a warm start — add warm_start=global")
    offset = _offset(train.offset, base, where)
    if train.warm_start == "none":
        return Job(choice, method, base, region, train, offset=offset)
    warm: dict[str, Any] = getattr(cls, "warm_defaults", {})
    train = validated(TrainSpec, {**defaults, **warm, **low, **common, **train_keys}, where)
    everyone = for_everyone(choice.name)
    start = everyone(**method.model_dump())
    settings = {k: v for k, v in spec.train.items() if k not in ("warm_start", "shrink")} | {"offset": train.offset}
    start_train = validated(TrainSpec, {**everyone.train_defaults, **settings}, f"method {everyone.card.name}")
    shared = Job(MethodSpec(name="global"), start, base, region, start_train, offset=offset)
    return Job(choice, method, base, region, train, shared, offset)


def _offset(name: str, base: str | None, where: str) -> Job | None:
    """Returns the job whose scores a method's modules are added to.

    Raises:
        PeftuError: no method of that name, or one that is not fitted on labels and features.
    """
    if name == "none":
        return None
    able = [known for known in methods.names() if is_reference(methods.get(known))]
    if name not in able:
        raise PeftuError(f"{where}: offset: is '{name}'{did_you_mean(name, able)}")
    method = methods.get(name)()
    reads = method.card.needs_base == "yes" or (method.card.needs_base == "optional" and method.reads_base)
    return Job(MethodSpec(name=name), method, base if reads else None, None, TrainSpec())
