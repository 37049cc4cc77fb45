"""The methods that are served: opened once each, and again where another thread or process has changed them."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from peftu.config import MethodSpec
from peftu.errors import PeftuError
from peftu.execute.stored import opened, systems
from peftu.fitted.fitted import Fitted
from peftu.fitted.guarded import GuardedFitted
from peftu.fitted.modules import ModuleFitted
from peftu.lab.lab import Lab
from peftu.predict import module_rows
from peftu.registry import did_you_mean
from peftu.serving.moment import Moment, Stamp, make_resident, moment, stamp
from peftu.serving.problems import RefusedError
from peftu.serving.resident import ResidentRows, Residents
from peftu.system import System


class Methods:
    """What one thread asks, or changes; no other touches it.

    Args:
        place: a finished run, or a folder that `Fitted.save` made.
        methods: as in the run's table; none: all that it kept.
        seed: of all; None: the first of each.
        base: where the base is now, if it has moved.
        lab: bases; shared by the methods.
        residents: module rows in memory.

    Raises:
        PeftuError: nothing there to serve, or no such method.
    """

    def __init__(
        self,
        place: Path,
        methods: Sequence[str] = (),
        seed: int | None = None,
        base: str | None = None,
        lab: Lab | None = None,
        residents: Residents | None = None,
    ) -> None:
        self.place, self.seed, self.base, self.lab = Path(place), seed, base, lab or Lab()
        self.residents = Residents(0) if residents is None else residents
        self._methods: dict[str, tuple[Fitted, Stamp]] = {}
        self._pinned: dict[tuple[str, str], Moment] = {}
        for label in methods or dict.fromkeys(kept["label"] for kept in systems(self.place)):
            self.reopen(label)
        self.default = next(iter(self._methods)) if methods else self._default()

    @property
    def labels(self) -> tuple[str, ...]:
        """Returns the methods as in the run's table."""
        return tuple(self._methods)

    def close(self) -> None:
        """Lets go of the stores."""
        self.residents.close()

    def sweep(self) -> None:
        """Lets go of rows and keys that were deleted, by whatever process."""
        for fitted, _ in self._methods.values():
            for part in (fitted, *fitted.around.values()):
                if isinstance(part, ModuleFitted) and isinstance(part.rows, ResidentRows):
                    part.rows.look()
        self.residents.sweep()

    def fresh(self, label: str) -> Fitted:
        """Returns a method as it is kept now."""
        fitted, was = self._methods[label]
        if stamp(fitted) != was:
            self.reopen(label)
        return self._methods[label][0]

    def pin(self, label: str, user: str) -> None:
        """Lets a method answer for a user as it does now until `unpin`, while what it is made of changes in parts."""
        self._pinned[label, user] = moment(self.fresh(label), [user])

    def unpin(self, label: str, user: str) -> None:
        """Lets a method answer for a user as it is kept again."""
        self._pinned.pop((label, user), None)

    def moments(self, label: str, users: Sequence[str], tokens: int | None = None) -> Iterator[Moment]:
        """Yields moments of a method which together know those of the users whom it knows.

        Args:
            label: of the method.
            users: who is asked about.
            tokens: that it writes at most.
        """
        fitted = self.fresh(label)
        free = [user for user in users if (label, user) not in self._pinned]
        most = at_once(fitted) or len(free) or 1
        moments = (moment(fitted, free[first : first + most]) for first in range(0, len(free), most))
        for now in chain((self._pinned[label, user] for user in users if (label, user) in self._pinned), moments):
            yield Moment(limited(now.fitted, tokens), now.modules)

    def named(self, label: str | None) -> str:
        """Returns the method that is meant.

        Raises:
            RefusedError: no such method, or it is not clear which.
        """
        if label is None:
            if self.default is None:
                raise RefusedError(422, f"method: there are several — name one of {', '.join(self.labels)}")
            return self.default
        for known in self.labels:
            if asked_as(label) & {known, System.parse(known).method}:
                return known
        alike = [known for known in self.labels if System.parse(known).name == label]
        if len(alike) == 1:
            return alike[0]
        raise RefusedError(422, f"method: is not served here{did_you_mean(label, self.labels)}")

    def for_everyone(self, fitted: Fitted) -> Fitted | None:
        """Returns the module trained on everyone, on the same base and task; None: none was."""
        every = (
            known
            for known, _ in self._methods.values()
            if known.job.card.scope == "global" and known.kind == "module" and not known.personal
        )
        return next((known for known in every if (known.job.base, known.task) == (fitted.job.base, fitted.task)), None)

    def reopen(self, label: str) -> None:
        """Opens a method as it is kept now; again, if it was changed meanwhile."""
        before: Stamp | None = None
        while True:
            fitted = opened(self.place, label, self.seed, self.base, self.lab)
            now = stamp(fitted)
            if now in ((), before):
                break
            before = now
        self._methods[fitted.label] = (make_resident(fitted, self.residents), now)

    def _default(self) -> str | None:
        known = [fitted for fitted, _ in self._methods.values()]
        for choice in ([f for f in known if f.kind in ("module", "joint")], known):
            personal = [fitted.label for fitted in choice if fitted.personal]
            if len(personal) == 1:
                return personal[0]
        return known[0].label if len(known) == 1 else None


def asked_as(label: str) -> set[str]:
    """Returns a method as it is asked for, and as it then stands in a run's table."""
    try:
        return {label, str(MethodSpec.parse(label))}
    except PeftuError:
        return {label}


def at_once(fitted: Fitted) -> int | None:
    """Returns of how many users the modules may be in memory at once; None: nobody has any."""
    if isinstance(fitted, GuardedFitted):
        return at_once(fitted.inner)
    return module_rows(fitted.layout) if isinstance(fitted, ModuleFitted) and fitted.of_users else None


def limited(fitted: Fitted, tokens: int | None) -> Fitted:
    """Returns a fitted method that writes so many tokens at most."""
    if tokens is None or tokens >= fitted.prompt.answer_tokens:
        return fitted
    shorter = copy.copy(fitted)
    shorter.prompt = replace(fitted.prompt, answer_tokens=tokens)
    return shorter
