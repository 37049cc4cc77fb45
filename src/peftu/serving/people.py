"""The thread that changes modules: people are enrolled and forgotten one after the other, while others are answered.

It has methods of its own, on bases whose weights it shares with the thread that answers. What it makes is committed to
the folder, and read from there: until then the earlier module answers.
"""

import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal

from peftu.errors import PeftuError, UnknownUserError
from peftu.execute.examples import KeptExamples, added, trained_on
from peftu.execute.people import forgotten
from peftu.fitted.fitted import Example, Fitted
from peftu.serving.background import Background
from peftu.serving.limits import Limits
from peftu.serving.metrics import Metrics
from peftu.serving.opened import Methods
from peftu.serving.problems import RefusedError, refused

_log = logging.getLogger(__name__)
REMEMBERED = 10_000  # enrolments whose outcome can be asked for
State = Literal["queued", "running", "done", "failed", "cancelled"]


@dataclass
class Change:
    """An enrolment or a deletion.

    Attributes:
        user: whose.
        method: that is enrolled in; None: the user is deleted from all.
        examples: labelled texts.
        replace: whether they are all, or added to those that the user is known by.
        state: how far it is.
        error: why it failed.
        seconds: it took.
        done: has the receipt of a deletion, or nothing.
    """

    user: str
    method: str | None = None
    examples: Sequence[Example] = ()
    replace: bool = False
    state: State = "queued"
    error: str | None = None
    seconds: float | None = None
    done: "Future[dict[str, Any]]" = field(default_factory=Future)


class People(Background):
    """Enrols and forgets.

    Args:
        open_methods: returns methods for this thread alone; called in it, when they are first needed.
        limits: of what waits.
        metrics: hears of outcomes.
        evict: drops what is deleted from memory.
        owner: has the thread which answers do something, and returns when it has.
    """

    def __init__(
        self,
        open_methods: Callable[[], Methods],
        limits: Limits,
        metrics: Metrics,
        evict: Callable[[], None],
        owner: Callable[[Callable[[Methods], None]], None],
    ) -> None:
        super().__init__("peftu-people")
        self._open_methods, self._limits, self._metrics, self._evict = open_methods, limits, metrics, evict
        self._owner = owner
        self._methods: Methods | None = None
        self._waiting: deque[Change] = deque()
        self._last: OrderedDict[str, Change] = OrderedDict()  # the latest enrolment of a user
        self._hidden: dict[str, int] = {}  # users being deleted

    def hidden(self) -> set[str]:
        """Returns the users who are being deleted: nobody answers for them."""
        with self._changed:
            return set(self._hidden)

    def enrolment(self, user: str) -> Change | None:
        """Returns a user's latest enrolment, if it is remembered."""
        with self._changed:
            return self._last.get(user)

    def enrol(self, user: str, method: str, examples: Sequence[Example], replace: bool = False) -> Change:
        """Takes an enrolment; an earlier one of the same user and method that has not begun becomes a part of it.

        Raises:
            RefusedError: too many changes wait, or the service stops.
        """
        change = Change(user, method, examples, replace)
        with self._changed:
            self._check()
            for earlier in self._cancel(user, method):
                if not replace:
                    change.examples, change.replace = [*earlier.examples, *examples], earlier.replace
            self._waiting.append(change)
            self._last[user] = change
            self._last.move_to_end(user)
            while len(self._last) > REMEMBERED:
                self._last.popitem(last=False)
            self._changed.notify()
        return change

    def forget(self, user: str) -> Change:
        """Takes a deletion: from now on nobody answers for the user, and enrolments that wait are off.

        Raises:
            RefusedError: too many changes wait, or the service stops.
        """
        change = Change(user)
        with self._changed:
            self._check()
            self._cancel(user)
            self._last.pop(user, None)
            self._hidden[user] = self._hidden.get(user, 0) + 1
            self._waiting.appendleft(change)  # a deletion waits for nobody's enrolment but the running one
            self._changed.notify()
        return change

    def _check(self) -> None:
        self._check_open()
        if len(self._waiting) >= self._limits.changes:
            raise RefusedError(429, "too many enrolments wait — come again", retry_after=10)

    def _cancel(self, user: str, method: str | None = None) -> list[Change]:
        cancelled = [
            change
            for change in self._waiting
            if change.user == user and change.method is not None and method in (None, change.method)
        ]
        for change in cancelled:
            change.state = "cancelled"
            change.done.cancel()
            self._waiting.remove(change)
        return cancelled

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._open and not self._waiting:
                    self._changed.wait()
                if not self._waiting:
                    break
                change = self._waiting.popleft()
                change.state = "running"
            self._make(change)
        if self._methods is not None:
            self._methods.close()

    def _make(self, change: Change) -> None:
        began, kind = time.monotonic(), "enrol" if change.method else "forget"
        outcome: State = "failed"
        error: Exception | None = None
        receipt: dict[str, Any] = {}
        try:
            receipt = self._enrolled(change) if change.method else self._forgotten(change.user)
            outcome = "done"
        except PeftuError as refusal:
            error = refused(refusal, self.methods.place)
            change.error = str(error)
        except Exception as fault:  # noqa: BLE001  (the thread goes on)
            _log.error("%s failed: %s", kind, type(fault).__name__)
            change.error, error = "an error of the service's own — see its log", fault
        change.seconds, change.examples = time.monotonic() - began, ()
        with self._changed:
            change.state = outcome
            if not change.method:
                self._hidden[change.user] -= 1
                if not self._hidden[change.user]:
                    del self._hidden[change.user]
        self._metrics.change(kind, outcome)
        if error is None:
            change.done.set_result(receipt)
        else:
            change.done.set_exception(error)

    @property
    def methods(self) -> Methods:
        """Returns this thread's methods."""
        if self._methods is None:
            self._methods = self._open_methods()
        return self._methods

    def _enrolled(self, change: Change) -> dict[str, Any]:
        method = str(change.method)
        fitted, kept = self.methods.fresh(method), KeptExamples(self.methods.place)
        before = kept.of(change.user)
        examples = added(() if change.replace else self._earlier(fitted, change.user, before), change.examples)
        if len(examples) > self._limits.examples:
            raise RefusedError(
                413, f"examples: with earlier ones over {self._limits.examples:,} — replace them by fewer"
            )
        kept.put(change.user, examples)  # first: of a process that is killed no label is lost
        self._owner(lambda methods: methods.pin(method, change.user))
        try:
            fitted.enrol(change.user, examples)
        except BaseException:
            kept.drop(change.user) if before is None else kept.put(change.user, before)
            self.methods.reopen(method)  # what it has in memory may be half a change
            raise
        finally:
            self._owner(lambda methods: methods.unpin(method, change.user))
        return {}

    def _earlier(self, fitted: Fitted, user: str, kept: Sequence[Example] | None) -> Sequence[Example]:
        """Returns the labelled texts that a user is known by.

        Raises:
            RefusedError: they are known, and nobody can tell by what: it would be lost.
        """
        if kept is not None:
            return kept
        if not any(self.methods.fresh(label).knows(user) for label in self.methods.labels):
            return ()  # new, or forgotten: what a table still has of them counts no more
        earlier = trained_on(self.methods.place, user, fitted.seed)
        if earlier is None:
            where = "what this user's module was trained on is not here"
            raise RefusedError(409, f"examples: {where} — pass all of them with replace")
        return earlier

    def _forgotten(self, user: str) -> dict[str, Any]:
        """Deletes a user for good; returns what was deleted.

        If it fails, the user stays hidden for as long as others are asked to delete them; what is in the folder counts.
        """
        try:
            receipt = forgotten(self.methods.place, user)  # from methods that are not served, too
        except UnknownUserError:
            raise RefusedError(404, "user: nobody here knows them — nothing was deleted") from None
        self._evict()
        return receipt
