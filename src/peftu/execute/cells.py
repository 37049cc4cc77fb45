"""One method at one seed: fit, score the validation and test rows, measure."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch

from peftu.bank import Layout
from peftu.base.answers import Answer
from peftu.base.cache import RegionCache
from peftu.base.families.family import Context
from peftu.base.model import FrozenBase, load_base
from peftu.base.prompt import Prompt
from peftu.base.reader import Cuts
from peftu.base.reading import cuts_line
from peftu.base.region import Region
from peftu.codes import CodeLayout, SharedLayout
from peftu.data.problem import PARTS, Floats, Problem, Text
from peftu.data.task import TaskCard
from peftu.errors import DivergedError, PeftuError
from peftu.execute.memo import Memo
from peftu.execute.plan import Job, is_joint, is_module, is_prompting, is_reference
from peftu.execute.progress import Reporter
from peftu.execute.prompted import prompted, written
from peftu.generate import generate
from peftu.joint import train_jointly
from peftu.methods.joint import EncodingMethod
from peftu.predict import score
from peftu.store import EVERYONE
from peftu.train import Examples, Trained, Unit, UnitLog, train

T = TypeVar("T")
BYTES_PER_NUMBER = 4  # modules are float32


@dataclass
class Cell:
    """What one method at one seed gave.

    Attributes:
        rows: numbers of the problem's rows that were scored (validation and test).
        scores: [rows, labels] log-probabilities (or one logit a label, where labels do not exclude each other); of
            free answers [rows, 2] log-likelihood and number of tokens.
        seconds: fit and score, with what it needed computed first (prefill, warm start), as if run alone.
        peak_rss_bytes: largest resident memory while it ran.
        parameters: numbers a user has of their own.
        notes: choices made on validation data, counts.
        modules: trained rows by key, for the store.
        logs: how training went, a unit each.
        ms_per_answer: milliseconds to score one row in batches, what no user changes having been computed.
        written: row number -> the free answer that was written for it, where that was asked for.
    """

    rows: npt.NDArray[np.int64]
    scores: Floats
    seconds: float = 0.0
    peak_rss_bytes: int = 0
    parameters: int = 0
    notes: dict[str, Any] = field(default_factory=dict)
    modules: "Modules | None" = None
    logs: list[UnitLog] = field(default_factory=list)
    ms_per_answer: float = 0.0
    written: dict[int, str] = field(default_factory=dict)

    @property
    def bytes_per_user(self) -> int:
        """Returns the bytes that are stored of a user: all numbers of a module's row, those not learned too."""
        stored = self.parameters
        if stored and self.modules is not None:  # a module of everyone's is nobody's own
            stored = self.modules.layout.width
        return BYTES_PER_NUMBER * stored


@dataclass(frozen=True)
class Modules:
    """Trained module rows, the keys they belong to, and what they were trained as.

    Attributes:
        layout: of the rows.
        region: where the modules act.
        trained: the rows, and how training went.
        keys: whose each row is.
        train_rows: number of rows that each was trained on.
        shared: [numbers] what the rows of a joint method are read with.
    """

    layout: Layout
    region: Region
    trained: Trained
    keys: tuple[str, ...]
    train_rows: tuple[int, ...]
    shared: torch.Tensor | None = None

    @property
    def diverged(self) -> int:
        """Returns for how many keys training came to numbers that are not finite, so that they have their start."""
        return sum(log.diverged for log in self.trained.logs)

    @property
    def learned(self) -> "Modules":
        """Returns the modules of all keys whose training did not diverge."""
        if self.shared is not None or not self.diverged:  # trained as one, or nothing to leave out
            return self
        kept = [place for place, log in enumerate(self.trained.logs) if not log.diverged]
        trained = Trained(self.trained.rows[kept], [self.trained.logs[place] for place in kept])
        keys, counts = tuple(self.keys[p] for p in kept), tuple(self.train_rows[p] for p in kept)
        return Modules(self.layout, self.region, trained, keys, counts)


class Workshop:
    """Bases, prefilled contexts, embeddings and shared modules of a run: each made once, whichever method asks first.

    Args:
        card: the task.
        problems: seed -> its problem.
        max_tokens: longest text in tokens.
        reporter: hears how far long work is.
        answer_tokens: longest free answer in tokens.
        writes: also write an answer for every test row, where answers are free text.
    """

    def __init__(
        self,
        card: TaskCard,
        problems: dict[int, Problem],
        max_tokens: int,
        reporter: Reporter,
        answer_tokens: int = 128,
        writes: bool = False,
    ) -> None:
        self.problems, self.reporter = problems, reporter
        self._answering = 0.0  # seconds of the scoring done last
        self.prompt = prompt_of(card, max_tokens, answer_tokens)
        self.writes = writes and self.prompt.free
        self.texts: list[Text] = list(dict.fromkeys(text for p in problems.values() for text in p.texts))
        self.place = {text: number for number, text in enumerate(self.texts)}
        number = {s: np.array([self.place[t] for t in p.texts], dtype=np.int64) for s, p in problems.items()}
        said = {
            s: [Answer(int(number[s][text]), words) for text, words in zip(p.text, p.answers, strict=True)]
            for s, p in problems.items()
            if self.prompt.free
        }
        # Distinct answers; empty where answers are labels.
        self.answers: list[Answer] = list(dict.fromkeys(answer for own in said.values() for answer in own))
        numbered = {answer: number for number, answer in enumerate(self.answers)}
        # Seed -> [N] each row's number in the contexts: of its text or, where answers are free, of its answer.
        self.items: dict[int, npt.NDArray[np.int64]] = {
            s: np.array([numbered[a] for a in said[s]], dtype=np.int64) if s in said else number[s][p.text]
            for s, p in problems.items()
        }
        self.base: Callable[[str], FrozenBase] = cache(partial(load_base, say=reporter.note))
        self.cuts: dict[str, Cuts] = {}
        self.answers_cut: dict[str, int] = {}
        self.memo = Memo()
        self.regions = RegionCache()

    def context(self, name: str, region: Region) -> Context:
        """Returns the prefill of all texts on a base."""

        def make() -> Context:
            told = self.reporter.stage(f"reading texts with {name}", len(self.texts))
            every = range(len(self.answers or self.texts))
            base, items = self.base(name), [*self.texts, *self.answers]
            context = self.regions.get(
                base, self.prompt, region, items, lambda: self.prefill(base, self.prompt, every, region, told)
            )
            self.tell_cuts(name, Cuts(context.cut, context.beside_cut))
            self.answers_cut[name] = context.answers_cut
            return context

        return self.memo.get(("context", name, region), make, lambda context: context.seconds)

    def prefill(
        self, base: FrozenBase, prompt: Prompt, items: Sequence[int], region: Region, told: Callable[[int], None]
    ) -> Context:
        """Returns the prefill of these texts or, where answers are free, of these answers and their texts."""
        if not prompt.free:
            return base.prefill(prompt, [self.texts[item] for item in items], region, told)
        answers = [self.answers[item] for item in items]
        place = {text: number for number, text in enumerate(dict.fromkeys(answer.text for answer in answers))}
        answers = [Answer(place[text], words) for text, words in answers]
        return base.prefill_answers(prompt, [self.texts[text] for text in place], answers, region, told)

    def tell_cuts(self, name: str, cuts: Cuts | None = None) -> None:
        """Keeps how many texts are too long for a base, counted here where nobody has, and says so once."""
        if name in self.cuts:
            return
        self.cuts[name] = cuts = self.base(name).cuts(self.prompt, self.texts) if cuts is None else cuts
        if any(cuts):
            self.reporter.note(cuts_line(name, cuts, len(self.texts), self.prompt))

    def embedded(self, name: str) -> Floats:
        """Returns [all texts, width] sentence vectors of a base."""
        self.tell_cuts(name)
        limits = (self.prompt.max_tokens, self.prompt.about)
        return self.memo.get(("embedded", name), lambda: self.base(name).embed(self.texts, *limits))

    def layout(self, job: Job) -> Layout:
        """Returns the layout of a job's modules; of a joint method, of what is shared.

        Raises:
            PeftuError: the base cannot host the method, or there are more users than the method is meant for.
        """
        base = self.base(cast(str, job.base))
        sites = base.sites(job.region_on(base), len(self.prompt.words))
        layout = SharedLayout(job.method, sites) if is_joint(job.method) else Layout(job.method, sites)
        users = 1 if job.card.scope == "global" else max(len(problem.users) for problem in self.problems.values())
        most = getattr(job.method, "max_users", users)
        if users > most:
            size = users * layout.width * BYTES_PER_NUMBER / 1e6
            raise PeftuError(
                f"method {job.card.name}: {users} users' modules take {size:,.1f} MB ({layout.width:,} numbers each) — "
                f"take fewer with --users, or {job.card.name}[max_users={users}]"
            )
        return layout

    def shared(self, job: Job, seed: int) -> Modules:
        """Returns the module trained on everyone for a global job.

        Raises:
            PeftuError: its training diverged.
        """

        def make() -> Modules:
            modules = self._train(job, seed, (self._everyone(seed),), "training on everyone")
            if modules.diverged:
                raise _diverged(job)
            return modules

        return self.memo.get(("shared", repr(job.resolved()), seed), make)

    def run(self, job: Job, seed: int) -> Cell:
        """Returns a job's cell at a seed."""
        with self.memo.alone() as cost:
            if is_reference(job.method):
                cell = self._reference(job, seed)
            elif is_joint(job.method):
                cell = self._joint(job, seed)
            elif is_module(job.method):
                cell = self._module(job, seed)
            elif is_prompting(job.method):
                asked = self._timed(lambda: prompted(self, job, seed))
                answers = written(self, job, seed, asked) if self.writes else {}
                cell = Cell(asked.rows, asked.scores, notes=asked.notes, written=answers)
            else:
                cell = self._untrained(job, seed)
        cell.seconds = cost.seconds
        cell.ms_per_answer = 1000 * self._answering / max(len(cell.rows), 1)
        cell.peak_rss_bytes = cost.peak_rss_bytes
        return cell

    def _timed(self, answers: Callable[[], T]) -> T:
        """Returns what scoring gives; keeps how long it took, for the cell that is being made."""
        start = time.perf_counter()
        found = answers()
        self._answering = time.perf_counter() - start
        return found

    # --- the kinds of method ------------------------------------------------------------------------------

    def _reference(self, job: Job, seed: int) -> Cell:
        problem = self.problems[seed]
        rows = np.flatnonzero(problem.part > 0)
        features = None if job.base is None else _Vectors(self, job.base)
        fitted = job.method.fit(problem, features, seed)
        scores = self._timed(lambda: fitted.scores(problem.user[rows], problem.text[rows]))
        return Cell(rows, scores, parameters=int(fitted.parameters_per_user), notes=dict(fitted.notes))

    def _untrained(self, job: Job, seed: int) -> Cell:
        problem, base = self.problems[seed], self.base(cast(str, job.base))
        context = self.context(base.name, job.region_on(base))
        rows = np.flatnonzero(problem.part > 0)
        scores = self._timed(lambda: score(base, context, self.items[seed][rows]))
        return Cell(rows, scores, written=self._written(base, seed, rows))

    def _module(self, job: Job, seed: int) -> Cell:
        problem, base = self.problems[seed], self.base(cast(str, job.base))
        region = job.region_on(base)
        context = self.context(base.name, region)
        rows = np.flatnonzero(problem.part > 0)
        if job.card.scope == "global":
            modules = self.shared(job, seed)
            owner = np.zeros(len(rows), dtype=np.int64)
        else:
            start = None if job.start is None else self.shared(job.start, seed).trained.rows[0]
            modules = self._train(job, seed, self._users(seed), f"training {job.label}", start)
            owner = problem.user[rows].astype(np.int64)
        items, trained = self.items[seed][rows], modules.trained.rows
        scores = self._timed(lambda: score(base, context, items, modules.layout, trained, owner))
        own = 0 if job.card.scope == "global" else modules.layout.parameters
        notes: dict[str, Any] = {
            "region": str(region),
            "module_parameters": modules.layout.parameters,
        }
        if modules.diverged:
            answering = "the base" if job.start is None else "everyone's module"
            notes["diverged"] = f"{modules.diverged} users, scored by {answering} and not stored"
            self.reporter.note(f"{job.label}: training diverged for {notes['diverged']} — lower lr")
        written = self._written(base, seed, rows, modules, owner)
        return Cell(
            rows, scores, parameters=own, notes=notes, modules=modules, logs=modules.trained.logs, written=written
        )

    def _written(
        self,
        base: FrozenBase,
        seed: int,
        rows: npt.NDArray[np.int64],
        modules: "Modules | None" = None,
        owner: npt.NDArray[np.int64] | None = None,
    ) -> dict[int, str]:
        """Returns the answers written for the test rows among these, where answers are free and were asked for."""
        if not self.writes:
            return {}
        problem = self.problems[seed]
        tested = problem.part[rows] == PARTS.index("test")
        texts = [problem.texts[text] for text in problem.text[rows[tested]]]
        told = self.reporter.stage(f"writing answers with {base.name}", len(texts))
        if modules is None or owner is None:
            answers = generate(base, self.prompt, texts, base.region(None), progress=told)
        else:
            own, region = modules.trained.rows, modules.region
            answers = generate(base, self.prompt, texts, region, modules.layout, own, owner[tested], progress=told)
        return dict(zip(rows[tested].tolist(), answers, strict=True))

    def _joint(self, job: Job, seed: int) -> Cell:
        problem, base = self.problems[seed], self.base(cast(str, job.base))
        region, units = job.region_on(base), self._users(seed)
        context = self.context(base.name, region)
        layout = cast(SharedLayout, self.layout(job))
        vectors = torch.from_numpy(self.embedded(base.name)) if isinstance(job.method, EncodingMethod) else None
        told = self.reporter.stage(f"training {job.label}", sum(len(unit.train) for unit in units) * job.train.epochs)
        found = train_jointly(base, context, layout, units, job.train, seed, vectors, told)
        if found.log.diverged:
            raise _diverged(job)
        codes = CodeLayout(layout, found.shared)
        rows = np.flatnonzero(problem.part > 0)
        owner = problem.user[rows].astype(np.int64)
        scores = self._timed(lambda: score(base, context, self.items[seed][rows], codes, found.codes, owner))
        trained, counts = Trained(found.codes, [found.log]), tuple(len(unit.train) for unit in units)
        modules = Modules(codes, region, trained, problem.users, counts, found.shared)
        notes = {"region": str(region), "shared_parameters": layout.parameters}
        written = self._written(base, seed, rows, modules, owner)
        return Cell(
            rows, scores, parameters=codes.width, notes=notes, modules=modules, logs=trained.logs, written=written
        )

    # --- training -----------------------------------------------------------------------------------------------

    def _train(
        self, job: Job, seed: int, units: Sequence[Unit], stage: str, start: torch.Tensor | None = None
    ) -> Modules:
        base = self.base(cast(str, job.base))
        region = job.region_on(base)
        context = self.context(base.name, region)
        layout = self.layout(job)
        told = self.reporter.stage(stage, sum(len(unit.train) for unit in units) * job.train.epochs)
        trained = train(base, context, layout, units, job.train, seed, start, told)
        counts = tuple(round(float(unit.train.weight.sum())) for unit in units)
        return Modules(layout, region, trained, tuple(unit.key for unit in units), counts)

    def _users(self, seed: int) -> list[Unit]:
        problem = self.problems[seed]
        parts = {part: problem.rows(part) for part in ("train", "val")}
        grouped = {part: _by_user(rows, problem.user[rows], len(problem.users)) for part, rows in parts.items()}
        return [
            Unit(key, self._examples(seed, grouped["train"][u]), self._examples(seed, grouped["val"][u]))
            for u, key in enumerate(problem.users)
        ]

    def _examples(self, seed: int, rows: npt.NDArray[np.int64]) -> Examples:
        problem = self.problems[seed]
        return Examples(self.items[seed][rows], problem.target[rows], np.ones(len(rows), dtype=np.float32))

    def _everyone(self, seed: int) -> Unit:
        """Returns all users as one unit: a distinct text once, with its labels' shares and its number of judgements.

        The summed cross-entropy is the same as over the single judgements, at a fraction of the work.
        """
        problem = self.problems[seed]
        parts = []
        for part in ("train", "val"):
            rows = problem.rows(part)
            items, back, count = np.unique(self.items[seed][rows], return_inverse=True, return_counts=True)
            share = np.zeros((len(items), problem.target.shape[1]), dtype=np.float32)
            np.add.at(share, back, problem.target[rows])
            weight = count.astype(np.float32)
            parts.append(Examples(items, np.asarray(share / weight[:, None], dtype=np.float32), weight))
        return Unit(EVERYONE, *parts)


class _Vectors:
    """A base's sentence vectors as `Features`; each list of texts is embedded once in a run."""

    def __init__(self, shop: Workshop, base: str) -> None:
        self.shop, self.base = shop, base

    def embed(self, texts: Sequence[Text]) -> Floats:
        shop, place = self.shop, self.shop.place
        if all(text in place for text in texts):
            return shop.embedded(self.base)[[place[text] for text in texts]]
        key = ("embedded", self.base, tuple(texts))
        return shop.memo.get(key, lambda: shop.base(self.base).embed(texts, shop.prompt.max_tokens, shop.prompt.about))


def prompt_of(card: TaskCard, max_tokens: int, answer_tokens: int = 128) -> Prompt:
    """Returns what a base is told about a task."""
    exclusive = card.kind != "multi"
    return Prompt(
        card.instruction, card.verbalisations, max_tokens, exclusive, answer_tokens=answer_tokens, about=card.about
    )


def _diverged(job: Job) -> DivergedError:
    return DivergedError(f"method {job.label}: training on everyone diverged at lr={job.train.lr:g} — lower lr")


def _by_user(rows: npt.NDArray[np.int64], users: npt.NDArray[np.integer], number: int) -> list[npt.NDArray[np.int64]]:
    order = np.argsort(users, kind="stable")
    return np.split(rows[order], np.searchsorted(users[order], np.arange(1, number)))
