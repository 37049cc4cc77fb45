"""A service: what is open, the thread that answers and the one that enrols, and how a request's pairs get answered."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from peftu.config import HardwareSpec
from peftu.data.problem import Text
from peftu.fitted.fitted import Fitted, TaskAnswers
from peftu.lab.lab import Lab
from peftu.serving.access import Access
from peftu.serving.asked import Answered, Errand, Question
from peftu.serving.limits import Limits
from peftu.serving.metrics import Metrics
from peftu.serving.opened import Methods
from peftu.serving.people import People
from peftu.serving.problems import RefusedError
from peftu.serving.reading import pairs_of
from peftu.serving.resident import Residents
from peftu.serving.worker import Worker

T = TypeVar("T")


@dataclass(frozen=True)
class Served:
    """What is known of a method without asking it.

    Attributes:
        label: as in the run's table.
        seed: of its fit.
        task: its answers.
        base: name of its base, or None.
        personal: whether users have something of their own in it.
        writes: whether it writes free answers.
    """

    label: str
    seed: int
    task: TaskAnswers
    base: str | None
    personal: bool
    writes: bool

    @classmethod
    def of(cls, fitted: Fitted) -> "Served":
        """Returns this of a fitted method."""
        writes = not fitted.task.answers.labelled and fitted.job.base is not None
        return cls(fitted.label, fitted.seed, fitted.task, fitted.job.base, fitted.personal, writes)


class Service:
    """Answers from what a run fitted, or from one fitted method's folder.

    Args:
        place: the folder.
        methods: as in the run's table; none: all.
        seed: of all; None: the first of each.
        base: where the base is now, if it has moved.
        hardware: where bases compute, and in which numbers; of what is unset, as they were fitted.
        limits: of requests.
        access: tokens.

    Raises:
        PeftuError: nothing there to serve.
    """

    def __init__(
        self,
        place: Path,
        methods: Sequence[str] = (),
        seed: int | None = None,
        base: str | None = None,
        hardware: HardwareSpec | None = None,
        limits: Limits | None = None,
        access: Access | None = None,
    ) -> None:
        self.place = Path(place)
        self.limits, self.access, self.metrics = limits or Limits(), access or Access(), Metrics()
        residents = Residents(self.limits.resident_bytes, self.metrics.modules)
        lab = Lab(hardware=hardware, kept_bytes=self.limits.text_bytes)
        opened = Methods(place, methods, seed, base, lab, residents)
        self.served = {label: Served.of(opened.fresh(label)) for label in opened.labels}
        self.named = opened.named
        twins = Lab(hardware=hardware)
        for name, loaded in lab.loaded.items():
            twins.add(name, loaded.twin())  # now: later a pass may have its hooks in it
        self.people = People(
            lambda: Methods(place, methods, seed, base, twins),
            self.limits,
            self.metrics,
            residents.sweep,
            self._at_owner,
        )
        self.worker = Worker(opened, self.limits, self.metrics, self.people.hidden)

    def start(self) -> None:
        """Begins to answer."""
        self.worker.start()
        self.people.start()

    def stop(self) -> None:
        """Finishes what was taken, then ends."""
        self.people.stop()  # first: it has the worker do things
        self.worker.stop()

    def _at_owner(self, work: Callable[[Methods], None]) -> None:
        errand = Errand(work, math.inf)
        self.worker.ask(errand, always=True)
        errand.answer.result()

    def method(self, name: str | None) -> Served:
        """Returns the method that is meant.

        Raises:
            RefusedError: no such method, or it is not clear which.
        """
        return self.served[self.named(name)]

    async def answers(self, users: Sequence[str], texts: Sequence[Text], like: Question) -> Answered:
        """Returns the answers to every user with every text, user by user, asked as ``like`` is.

        Raises:
            RefusedError: a user is not known, too much waits, or it took too long.
        """
        step = max(1, self.limits.batch_pairs // max(1, len(texts)))
        firsts = range(0, len(users), step)
        questions = [
            replace(like, users=flat, texts=each, first=first * len(texts), answer=Future())
            for first, (flat, each) in ((first, pairs_of(users[first : first + step], texts)) for first in firsts)
        ]
        try:
            for question in questions:
                self.worker.ask(question)
            parts: list[Answered] = [await self._wait(question) for question in questions]
        except BaseException as error:
            for place, question in enumerate(questions):
                question.answer.cancel()
                if isinstance(error, RefusedError) and error.places and question.answer.done():
                    error.places = self._shifted(question, error, place * step)
            raise
        first_part, *others = parts
        for part in others:
            first_part.rows += part.rows
            first_part.answerers |= part.answerers
        return first_part

    async def heard(
        self, user: str, texts: Sequence[Text], like: Question
    ) -> AsyncIterator[tuple[int, str] | Answered]:
        """Yields a text's place and what is written to it so far, again and again; at the end, all that was answered.

        Raises:
            RefusedError: as `answers`.
        """
        loop, events = asyncio.get_running_loop(), asyncio.Queue[tuple[int, str] | None]()

        def hear(place: int, text: str) -> None:
            loop.call_soon_threadsafe(events.put_nowait, (place, text))

        answers = asyncio.ensure_future(self.answers([user], texts, replace(like, hear=hear)))
        answers.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while (event := await events.get()) is not None:
                yield event
            yield await answers
        finally:
            answers.cancel()

    @staticmethod
    def _shifted(question: Question, error: RefusedError, by: int) -> tuple[int, ...]:
        """Returns the places of the users in the whole request, where it is this part of it that was refused."""
        refused = not question.answer.cancelled() and question.answer.exception() is error
        return tuple(place + by for place in error.places) if refused else error.places

    async def do(self, work: Callable[[Methods], T]) -> T:
        """Returns what the thread that owns the models makes of this."""
        errand = Errand(work, time.monotonic() + self.limits.seconds)
        self.worker.ask(errand)
        result: T = await self._wait(errand)
        return result

    async def forgotten(self, user: str) -> dict[str, Any]:
        """Returns what was deleted of a user, in numbers.

        Raises:
            RefusedError: nobody knows them; or it takes long, and they are hidden meanwhile.
        """
        change = self.people.forget(user)
        try:
            return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(change.done)), self.limits.seconds)
        except TimeoutError:
            raise RefusedError(504, "the user is hidden already, the bytes are yet to go — ask again") from None

    def question(self, method: str, **asked: Any) -> Question:
        """Returns a question without pairs yet, to be asked within the time that a request has."""
        return Question(method, (), (), deadline=time.monotonic() + self.limits.seconds, **asked)

    async def _wait(self, asked: Question | Errand) -> Any:
        try:
            return await asyncio.wait_for(
                asyncio.wrap_future(asked.answer), max(0.0, asked.deadline - time.monotonic())
            )
        except TimeoutError:
            raise RefusedError(504, "the answer took too long — ask less at once") from None
