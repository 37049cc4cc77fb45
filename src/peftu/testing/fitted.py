"""What every fitted method promises, checked on made-up users."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from peftu.answers import Kind
from peftu.cells.fits import Fits
from peftu.config import HardwareSpec, MethodSpec, RunSpec, SplitSpec
from peftu.data.problem import Floats, Problem, Text
from peftu.data.splits import make_problem, make_split
from peftu.data.synthetic import synthetic_table
from peftu.errors import PeftuError
from peftu.fitted.fitted import Fitted
from peftu.fitted.folder import load
from peftu.lab.lab import Lab
from peftu.lab.progress import Silent
from peftu.methods.joint import EncodingMethod, PopulationMethod
from peftu.plan import plan
from peftu.testing.bases import CPU

CLOSE = 1e-5
FITTED = 1e-3  # where what is enrolled comes from a search that stops when it is near
NEW_TEXTS = (Text("a note that nobody has judged"), Text("rain again, and no train", "So?"))


def fit_tiny(
    method: str,
    base: str,
    kind: Kind = "single",
    users: int = 4,
    unlabelled: Sequence[Text] = (),
    hardware: HardwareSpec = CPU,
) -> tuple[Fitted, Problem]:
    """Returns a method fitted on made-up judgements, and the problem.

    Args:
        method: as asked for in a run, such as 'lora[rank=2]'.
        base: name of a base that the lab can load.
        kind: of answers.
        users: how many.
        unlabelled: texts that it sees besides, and no label of.
        hardware: where bases compute, and in which numbers.
    """
    table = synthetic_table(users=users, items=16, kind=kind)
    problem = make_problem(table, table.card, make_split(table, SplitSpec(), 0))
    problem = replace(problem, texts=(*problem.texts, *unlabelled))
    spec = RunSpec(task="any", methods=(MethodSpec.parse(method),), base=base, train={"epochs": 2, "lr": 0.02})
    fitted = Fits(table.card, {0: problem}, 64, Silent(), hardware=hardware).run(plan(spec)[-1], 0).fitted
    assert fitted is not None  # noqa: S101  (only guards have none here)
    return fitted, problem


def check_fitted(method: str, base: str, kind: Kind = "single") -> None:
    """Checks what a fitted method promises.

    Its state round trip scores alike, and texts that it never saw are scored as by a fit that saw them unlabelled. A
    user who is enrolled anew with the rows that a run trained on scores as before. A newcomer and a user who goes leave
    everybody else's scores bit for bit; nothing of a user who went is left; a user who is not known is an error.

    Args:
        method: as asked for in a run.
        base: name of a base that the lab can load.
        kind: of answers.

    Raises:
        AssertionError: a promise is broken.
    """
    fitted, problem = fit_tiny(method, base, kind)
    users, texts = _pairs(problem)
    answers = problem_answers(problem)
    before = fitted.scores(users, texts, answers)
    _hold(bool(np.isfinite(before).all()), "scores are not finite")
    with tempfile.TemporaryDirectory() as folder:
        again = load(fitted.save(Path(folder) / "kept"), _lab_of(fitted))
        _close(again.scores(users, texts, answers), before, "a state that was kept scores differently")
        _same(again.decide(before), fitted.decide(before), "a state that was kept decides differently")
        if fitted.personal:
            _enrolled_anew(again, problem)
            _newcomers(again, problem, users, texts, answers)
    seen, _ = fit_tiny(method, base, kind, unlabelled=NEW_TEXTS)
    _close(
        seen.scores(users, texts, answers), before, "texts that it never saw are scored as no fit that saw them does"
    )
    if not fitted.personal:
        return
    try:
        fitted.scores(["nobody"], [NEW_TEXTS[0]], answers[:1])
    except PeftuError as error:
        _hold("nobody" not in str(error), "the error names the user")
    else:
        raise AssertionError("a user who is not known is answered")


def _enrolled_anew(fitted: Fitted, problem: Problem) -> None:
    """Codes learned beside what all share are not found again with that at rest, nor are cross-fitted offsets."""
    found_again = EncodingMethod | PopulationMethod
    if fitted.job.offset is not None or (fitted.kind == "joint" and not isinstance(fitted.job.method, found_again)):
        return
    user = problem.users[1]
    train, val = (_examples(problem, part) for part in ("train", "val"))
    texts, answers = list(problem.texts[:6]), list(problem.answers[:6])
    before = fitted.scores([user] * 6, texts, answers)
    fitted.enrol(user, train, val if fitted.kind in ("module", "guarded") else ())
    tolerance = CLOSE if fitted.kind != "reference" else FITTED
    _close(
        fitted.scores([user] * 6, texts, answers), before, "enrolled with the run's rows is not the run's", tolerance
    )


def _examples(problem: Problem, part: str) -> list[tuple[Text, list[str]]]:
    rows = problem.rows(part, 1)
    return [
        (
            problem.texts[problem.text[row]],
            [problem.answers[row]]
            if problem.answers
            else [label for label, given in zip(problem.card.labels, problem.target[row], strict=True) if given],
        )
        for row in rows
    ]


def _newcomers(
    fitted: Fitted, problem: Problem, users: Sequence[str], texts: Sequence[Text], answers: Sequence[str]
) -> None:
    before = fitted.scores(users, texts, answers)
    examples = [(text, label) for text, label in zip(problem.texts[:12], _labels(problem, 12), strict=True)]
    fitted.enrol("newcomer", examples)
    _same(fitted.scores(users, texts, answers), before, "a newcomer changes somebody else's scores")
    theirs = fitted.scores(["newcomer"] * len(texts[:5]), texts[:5], answers[:5])
    _hold(bool(np.isfinite(theirs).all()), "a newcomer's scores are not finite")
    fitted.enrol("newcomer", examples)
    _close(fitted.scores(["newcomer"] * 5, texts[:5], answers[:5]), theirs, "enrolled twice is not enrolled once")
    gone = problem.users[0]
    fitted.forget(gone)
    rest = [place for place, user in enumerate(users) if user != gone]
    theirs_too = [answers[place] for place in rest] if answers else ()
    after = fitted.scores([users[place] for place in rest], [texts[place] for place in rest], theirs_too)
    _same(after, before[rest], "forgetting a user changes somebody else's scores")
    _hold(gone not in str(fitted.state().about), "a user who is forgotten stands in the state")
    _hold(gone not in fitted.users, "a user who is forgotten is known")


def problem_answers(problem: Problem) -> list[str]:
    """Returns a free answer for each of `_pairs`; none where answers are labels."""
    return list(problem.answers[: len(_pairs(problem)[0])])


def _labels(problem: Problem, count: int) -> list[str]:
    if problem.answers:
        return list(problem.answers[:count])
    return [problem.card.labels[place % len(problem.card.labels)] for place in range(count)]


def _pairs(problem: Problem) -> tuple[list[str], list[Text]]:
    texts = [*problem.texts[:4], *NEW_TEXTS]
    return [user for user in problem.users for _ in texts], texts * len(problem.users)


def _lab_of(fitted: Fitted) -> Lab:
    """Returns a lab that knows the bases, and has read nothing."""
    lab = Lab()
    for name, base in fitted.lab.loaded.items():
        lab.add(name, base)
    return lab


def _close(scores: Floats, expected: Floats, broken: str, tolerance: float = CLOSE) -> None:
    apart = float(np.abs(scores - expected).max())
    _hold(apart < tolerance, f"{broken}: {apart:.1e} apart")


def _same(scores: object, expected: object, broken: str) -> None:
    _hold(np.array_equal(np.asarray(scores), np.asarray(expected)), broken)


def _hold(truth: bool, broken: str) -> None:
    if not truth:
        raise AssertionError(broken)
