"""Questions of many requests answered together: each user by their own module, or by what is named instead."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from peftu.bank import derived_seed
from peftu.data.problem import Text
from peftu.fitted.fitted import Fitted
from peftu.serving.asked import Answered, Answerer, Question
from peftu.serving.moment import Moment, moment, without_modules
from peftu.serving.opened import Methods, limited
from peftu.serving.problems import RefusedError

Pair = tuple[int, int]  # number of a question, and of a pair of it


def answer_together(methods: Methods, questions: Sequence[Question], hidden: Collection[str] = ()) -> None:
    """Answers questions that are `alike`, each for itself: what is wrong with one is not the others' loss.

    Args:
        methods: what is asked.
        questions: whose futures get their answers.
        hidden: users who are not answered, though a store may still hold them.
    """
    try:
        for question, answered in zip(questions, _answered(methods, questions, hidden), strict=True):
            if isinstance(answered, Exception):
                question.answer.set_exception(answered)
            else:
                question.answer.set_result(answered)
    except Exception as error:  # noqa: BLE001  (whoever asked hears of it)
        if len(questions) == 1:
            questions[0].answer.set_exception(error)
            return
        for question in questions:
            if not question.answer.done():
                answer_together(methods, [question], hidden)


def _answered(
    methods: Methods, questions: Sequence[Question], hidden: Collection[str]
) -> list[Answered | RefusedError]:
    first = questions[0]
    fitted = methods.fresh(first.method)
    reader = _Reader(questions)
    missing = _by_user(questions)
    if not first.bare:
        shown = [user for user in missing if user not in hidden]
        for now in methods.moments(first.method, shown, first.tokens):
            reader.read(now, {user: missing.pop(user) for user in now.modules})
    refused = reader.fall_back(methods, fitted, missing)
    return [
        refused.get(number)
        or Answered(fitted.label, reader.rows[number], reader.answerers[number], list(fitted.remarks))
        for number in range(len(questions))
    ]


class _Reader:
    """Fills in the answers of some questions."""

    def __init__(self, questions: Sequence[Question]) -> None:
        self.questions = questions
        self.answerers: list[dict[str, Answerer]] = [{} for _ in questions]
        self.rows: list[list[dict[str, Any]]] = [[{} for _ in question.users] for question in questions]

    def read(self, now: Moment, pairs: dict[str, list[Pair]], fallback: str | None = None) -> None:
        """Reads each user's pairs with what answers for the user."""
        fitted, flat = now.fitted, [(user, place) for user, places in pairs.items() for place in places]
        if not flat:
            return
        first = self.questions[0]
        users, texts = [user for user, _ in flat], [self.questions[q].texts[p] for _, (q, p) in flat]
        if first.writes:
            asked = [(self.questions[q], p) for _, (q, p) in flat]
            seeds = [
                derived_seed(fitted.seed if question.seed is None else question.seed, "draw", str(question.first + p))
                for question, p in asked
            ]

            def heard(pair: int, text: str) -> None:
                question, p = asked[pair]
                if question.hear is not None:
                    question.hear(p, text)

            hear = heard if any(question.hear for question in self.questions) else None
            rows: Iterable[dict[str, Any]] = (
                {"answer": written} for written in fitted.write(users, texts, first.temperature, seeds, hear)
            )
        else:
            columns = [f"p_{label}" for label in fitted.task.labels]
            named, chances = fitted.named(users, texts)
            rows = (
                {"labels": labels, **dict(zip(columns, row, strict=True))}
                for labels, row in zip(named, chances.tolist(), strict=True)
            )
        for (user, (q, p)), row in zip(flat, rows, strict=True):
            self.rows[q][p] = row
            self.answerers[q][user] = Answerer(now.modules[user], fallback)

    def fall_back(self, methods: Methods, fitted: Fitted, missing: dict[str, list[Pair]]) -> dict[int, RefusedError]:
        """Reads users who are not known with what their questions say; returns the questions that are refused."""
        refused: dict[int, RefusedError] = {}
        by_choice: dict[str, dict[str, list[Pair]]] = {}
        lacking: dict[int, list[int]] = {}
        for user, places in missing.items():
            for q, p in places:
                choice: str = "base" if self.questions[q].bare else self.questions[q].on_missing
                if choice == "error":
                    lacking.setdefault(q, []).append(p)
                else:
                    by_choice.setdefault(choice, {}).setdefault(user, []).append((q, p))
        for q, lacked in lacking.items():
            refused[q] = _unknown(self.questions[q], lacked)
        for choice, pairs in by_choice.items():
            other = without_modules(fitted) if choice == "base" else methods.for_everyone(fitted)
            pairs = {user: [place for place in places if place[0] not in refused] for user, places in pairs.items()}
            if other is None:
                message = f"on_missing: there is no {choice} here that answers as {fitted.label} does — use error"
                refused |= {q: RefusedError(422, message) for places in pairs.values() for q, _ in places}
                continue
            self.read(moment(limited(other, self.questions[0].tokens), list(pairs)), pairs, choice)
        return refused


def _unknown(question: Question, lacked: Sequence[int]) -> RefusedError:
    users = {user: place for place, user in enumerate(dict.fromkeys(question.users))}
    places = sorted({users[question.users[pair]] for pair in lacked})
    message = f"{question.method}: {len(places)} of {len(users)} users have no module here — enrol them, or on_missing"
    return RefusedError(404, message, places=tuple(places))


def _by_user(questions: Sequence[Question]) -> dict[str, list[Pair]]:
    pairs: dict[str, list[Pair]] = {}
    for q, question in enumerate(questions):
        for p, user in enumerate(question.users):
            pairs.setdefault(user, []).append((q, p))
    return pairs


def pairs_of(users: Sequence[str], texts: Sequence[Text]) -> tuple[list[str], list[Text]]:
    """Returns every user with every text, user by user."""
    return [user for user in users for _ in texts], list(texts) * len(users)
