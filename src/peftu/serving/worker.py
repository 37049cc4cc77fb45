"""The thread that owns the models: takes what waits, reads what is alike at once, and answers each request."""

import time
from collections import deque
from collections.abc import Callable, Collection

from peftu.serving.asked import Errand, Question
from peftu.serving.background import Background
from peftu.serving.limits import Limits
from peftu.serving.metrics import Metrics
from peftu.serving.opened import Methods
from peftu.serving.problems import RefusedError
from peftu.serving.reading import answer_together

Asked = Question | Errand
SWEEP = 1.0  # seconds after which rows that another process deleted have left memory


class Worker(Background):
    """Answers questions in micro-batches: whatever waits when the model is free is read together.

    Args:
        methods: what is asked; this thread's alone.
        limits: of the queue and of batches.
        metrics: hears of them.
        hidden: returns the users who are being deleted.
    """

    def __init__(
        self, methods: Methods, limits: Limits, metrics: Metrics, hidden: Callable[[], Collection[str]]
    ) -> None:
        super().__init__("peftu-worker")
        self._methods, self._limits, self._metrics, self._hidden = methods, limits, metrics, hidden
        self._waiting: deque[Asked] = deque()
        self._pairs = 0  # that wait
        self._rate = 1000.0  # pairs answered in a second of late, to say when to come again

    def ask(self, question: Asked, always: bool = False) -> None:
        """Takes a question, whose future will have the answer; ``always``, however much waits.

        Raises:
            RefusedError: too much waits already, or the service stops.
        """
        with self._changed:
            self._check_open()
            if not always and self._pairs and self._pairs + len(question) > self._limits.waiting:
                seconds = min(60, 1 + int(self._pairs / self._rate))
                raise RefusedError(429, "too many requests wait — come again", retry_after=seconds)
            self._waiting.append(question)
            self._pairs += len(question)
            self._metrics.queued(self._pairs)
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._open and not self._waiting:
                    if not self._changed.wait(SWEEP):
                        break
                if not self._open and not self._waiting:
                    break
                batch = self._batch()
            if batch:
                self._answer(batch)
            else:
                self._methods.sweep()
        self._methods.close()

    def _batch(self) -> list[Asked]:
        """Takes the first question and those like it, in order, within the limits."""
        batch: list[Asked] = []
        kept: deque[Asked] = deque()
        pairs = 0
        while self._waiting and len(batch) < self._limits.batch_requests:
            question = self._waiting.popleft()
            if batch and (question.alike != batch[0].alike or pairs + len(question) > self._limits.batch_pairs):
                kept.append(question)
                continue
            batch.append(question)
            pairs += len(question)
        kept.extend(self._waiting)
        self._waiting = kept
        self._pairs -= pairs
        self._metrics.queued(self._pairs)
        return batch

    def _answer(self, batch: list[Asked]) -> None:
        now = time.monotonic()
        asked: list[Question] = []
        for question in batch:
            if not question.answer.set_running_or_notify_cancel():
                continue
            if question.deadline < now:
                question.answer.set_exception(RefusedError(504, "the answer took too long — ask less at once"))
                continue
            if isinstance(question, Errand):
                self._run_errand(question)
            else:
                asked.append(question)
        if not asked:
            return
        answer_together(self._methods, asked, self._hidden())
        pairs, seconds = sum(map(len, asked)), time.monotonic() - now
        self._rate = 0.8 * self._rate + 0.2 * pairs / max(seconds, 1e-3)
        self._metrics.batch(len(asked), pairs, seconds)

    def _run_errand(self, errand: Errand) -> None:
        try:
            errand.answer.set_result(errand.work(self._methods))
        except Exception as error:  # noqa: BLE001  (whoever asked hears of it)
            errand.answer.set_exception(error)
