"""The run record: everything needed to trust, repeat and compare a run, as one versioned JSON file.

A run folder holds ``predictions.parquet``, ``user_scores.parquet``, ``train_log.jsonl``, ``report.html`` and, written
last, ``run.json``. A folder without ``run.json`` is unfinished and is never read as whole.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

import polars as pl
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from peftu.answers import FreeText, Kind, OneOf
from peftu.data.task import TaskCard
from peftu.environment import Environment, current_environment
from peftu.errors import PeftuError
from peftu.files import has_content, owner_only, sha256_of, write_atomic
from peftu.metrics import metrics
from peftu.outside import parse_json, plain_file
from peftu.stats import MeanEstimate, UserMatrix, bootstrap, paired_gains, seed_means, user_matrix
from peftu.system import System

RECORD = "run.json"
REPORT = "report.html"
PREDICTIONS = "predictions.parquet"
USER_SCORES = "user_scores.parquet"
REFERENCES = OneOf().references
USER_MAJORITY, GLOBAL, MIXED_HEAD = REFERENCES
ZERO_SHOT = FreeText().floor

Scope = Literal["none", "global", "user", "both"]


class Tags(Protocol):
    """The part of a method's card that must stand beside its number."""

    @property
    def scope(self) -> Scope: ...  # noqa: D102
    @property
    def trained(self) -> bool: ...  # noqa: D102
    @property
    def uses_others_labels(self) -> bool: ...  # noqa: D102


class Part(BaseModel):
    """A frozen piece of the record; keys added by a later minor version are skipped when it is read."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Score(Part):
    """A mean over users and its 95 % interval (bootstrap-t over users); null without a scored user.

    The interval is null with one user alone.
    """

    mean: float | None
    ci: tuple[float, float] | None

    @staticmethod
    def of(estimate: MeanEstimate) -> "Score":
        """Returns an estimate as it stands in records."""
        return Score(mean=estimate.mean, ci=estimate.ci)


class MethodCost(Part):
    """What one method cost, as measured by whoever ran it; averaged over seeds."""

    parameters_per_user: int | None = None
    bytes_per_user: int | None = None
    seconds_per_user: float | None = None
    users_per_hour: float | None = Field(None, description="3600 / seconds_per_user unless measured.")
    peak_rss_bytes: int | None = None
    ms_per_answer: float | None = Field(None, description="To score one text, in batches, once it has been read.")
    notes: dict[str, Any] = Field(default_factory=dict)


class MethodResult(Part):
    """One line of the leaderboard. Its JSON is the documented shape of ``run --json`` and ``compare --json``."""

    method: str
    base: str | None
    mean: float | None = Field(description="Main metric, averaged over seeds, then over users.")
    ci: tuple[float, float] | None
    seeds: tuple[float, ...] = Field(description="Mean over users for each seed.")
    gain: dict[str, Score] = Field(description="Paired over users; positive is better whatever the metric.")
    helped: int | None = Field(description="Users scoring better than with user-majority; null when it was not run.")
    unchanged: int | None
    hurt: int | None
    parameters_per_user: int | None = None
    bytes_per_user: int | None = None
    seconds_per_user: float | None = None
    users_per_hour: float | None = None
    peak_rss_bytes: int | None = None
    macro_f1: Score = Field(description="Null for tasks without labels.")
    users: int = Field(description="Users with at least one scored test row.")
    scored: int = Field(description="Test rows scored, over all seeds.")
    unscored: int = Field(description="Test rows without a usable prediction, over all seeds; in no metric.")
    scope: Scope | None = Field(None, description="Whose parameters it has.")
    trained: bool | None = None
    uses_others_labels: bool | None = None
    ms_per_answer: float | None = Field(None, description="To score one text, in batches, once it has been read.")
    notes: dict[str, Any] = Field(default_factory=dict)

    @property
    def system(self) -> System:
        """Returns the method and base of this line; a scored file may have the base in its method's name."""
        return System.parse(self.label)

    @property
    def label(self) -> str:
        """Returns 'method@base', the name of this line."""
        return System(self.method, self.base).label

    @property
    def name(self) -> str:
        """Returns the method's plain name, without knobs and base."""
        return self.system.name

    @property
    def personal(self) -> bool:
        """Returns whether this is a way to personalise that must prove itself against user-majority."""
        if self.name in (USER_MAJORITY, GLOBAL):
            return False
        if self.scope is None:
            return not self.name.startswith(("global", "zero-shot"))
        return self.scope in ("user", "both")


class TaskSummary(Part):
    """The part of the task card that a reader of results needs."""

    name: str
    version: str
    title: str
    kind: Kind
    labels: tuple[str, ...]
    user: str
    main_metric: str
    language: str
    licence: str
    citation: str
    homepage: str
    content_warning: str | None = None
    superseded_by: str | None = None

    @classmethod
    def of(cls, card: TaskCard) -> "TaskSummary":
        """Returns the summary of a card."""
        return cls.model_validate(card.model_dump())


class Hashes(Part):
    """What the numbers were made from."""

    data: str = Field(description="'sha256:…' of the user table.")
    splits: dict[str, str] = Field(description="Seed -> 'sha256:…' of its split.")
    bases: dict[str, str] = Field(default_factory=dict, description="Base -> fingerprint of weights and tokenizer.")


class CostTotals(Part):
    """What the whole run cost."""

    seconds: float | None = None
    peak_rss_bytes: int | None = None
    bytes: int | None = Field(None, description="Stored personal modules of all methods.")


class RunFile(Part):
    """A file of the run folder."""

    name: str = Field(pattern=r"^[\w-][\w.-]*$")
    bytes: int
    sha256: str


class RunCell(Part):
    """A cell that the run was put together from: one method at one seed, for one shard of users."""

    method: str
    base: str | None
    seed: int
    users: int
    name: str = Field(description="Folder of the cell, named by what decides its numbers.")

    @property
    def system(self) -> System:
        """Returns the method's id."""
        return System(self.method, self.base)


class Failed(Part):
    """A method that could not be fitted at a seed; the run is without it."""

    method: str
    base: str | None
    seed: int
    why: str

    @property
    def system(self) -> System:
        """Returns the method's id."""
        return System(self.method, self.base)


class RunRecord(Part):
    """Version 1 of the record. Files written by it load for ever."""

    schema_version: Literal[1] = 1
    run: str = Field(description="The run's id: first digits of the hash of its spec.")
    created: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))
    status: Literal["complete", "failed", "interrupted"] = "complete"
    error: str | None = None
    command: str | None = Field(None, description="Command line that makes this run again.")
    spec_passed: dict[str, Any] = Field(description="As asked for.")
    spec: dict[str, Any] = Field(description="As resolved: every default filled in.")
    task: TaskSummary
    regime: str
    hashes: Hashes
    dtypes: dict[str, str] = Field(default_factory=dict, description="Base -> number type it computed in.")
    quantized: dict[str, str] = Field(default_factory=dict, description="Base -> how its layers were quantised, if so.")
    devices: tuple[str, ...] = Field((), description="What bases computed on: 'cpu', 'mps' or a card's name.")
    users: int
    excluded_users: dict[str, int] = Field(default_factory=dict, description="Reason -> users left out.")
    truncated_texts: dict[str, int] = Field(
        default_factory=dict, description="Base -> texts of which what the question is about lost its end."
    )
    shortened_texts: dict[str, int] = Field(
        default_factory=dict,
        description="Base -> texts of which what stands beside that was shortened to keep it whole.",
    )
    statistics: dict[str, Any] = Field(default_factory=dict, description="The whole table's, as in data stats.")
    leakage: dict[str, Any] = Field(default_factory=dict, description="The split's leakage report.")
    methods: tuple[MethodResult, ...] = ()
    cells: tuple[RunCell, ...] = Field((), description="What the run was put together from.")
    failed: tuple[Failed, ...] = Field((), description="Methods that are missing from all else, with the reason.")
    cost: CostTotals = CostTotals()
    warnings: tuple[str, ...] = Field((), description="What a reader must know and no other field says; no user keys.")
    environment: Environment = Field(default_factory=current_environment)
    files: tuple[RunFile, ...] = ()
    deleted_users: int = Field(0, description="Users who went from the tables later; all else is of the run as it was.")

    @property
    def failures(self) -> dict[System, str]:
        """Returns the methods that are missing, each with the reason at its first seed that failed."""
        return {failed.system: failed.why for failed in reversed(self.failed)}

    @property
    def scored(self) -> int:
        """Returns the test rows that got a score, over methods and seeds."""
        return sum(method.scored for method in self.methods)

    @property
    def unscored(self) -> int:
        """Returns the test rows that got none, over methods and seeds."""
        return sum(method.unscored for method in self.methods)

    @property
    def split(self) -> str:
        """Returns the split's hash; with different splits per seed, the hash of their hashes."""
        distinct = sorted(set(self.hashes.splits.values()))
        return (
            distinct[0] if len(distinct) == 1 else "sha256:" + hashlib.sha256("\n".join(distinct).encode()).hexdigest()
        )

    def to_json(self) -> str:
        """Returns the record as indented JSON without NaN."""
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def write(self, folder: Path) -> Path:
        """Returns the path of ``run.json``, written whole or not at all."""
        return write_atomic(Path(folder) / RECORD, self.to_json())

    @classmethod
    def read(cls, path: Path) -> "RunRecord":
        """Returns the record in a ``run.json`` or in the folder that holds it; keys it does not know are skipped.

        Raises:
            PeftuError: there is none, it is cut off, is another kind of file, or comes from a newer version.
        """
        path = Path(path)
        path = path / RECORD if path.is_dir() else path
        try:
            raw = parse_json(plain_file(path).read_text(encoding="utf-8"), finite=True)
        except OSError:
            raise PeftuError(f"{path}: no readable run record — the run did not finish, or this is no run") from None
        except json.JSONDecodeError:
            raise PeftuError(f"{path}: not a whole JSON file — it was cut off or is no run record; run again") from None
        except ValueError as error:
            raise PeftuError(f"{path}: {error} — the record was changed or damaged; run again") from None
        version = raw.get("schema_version") if isinstance(raw, dict) else None
        if not isinstance(version, int):
            raise PeftuError(f"{path}: schema_version is missing — this is no run record of peftu")
        if version > 1:
            raise PeftuError(f"{path}: schema_version {version} is newer than this peftu — pip install -U peftu")
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise PeftuError(
                f"{path}: {field}: {first['msg']} — the record was changed or damaged; run again"
            ) from None

    def cli_json(self, folder: Path | None = None) -> dict[str, Any]:
        """Returns the one JSON object that ``run --json`` and ``compare --json`` print.

        Args:
            folder: the run folder; without it ``run`` is the id and ``report`` is null.
        """
        return {
            "task": self.task.name,
            "regime": self.regime,
            "split": self.split,
            "users": self.users,
            "metric": self.task.main_metric,
            "run": self.run if folder is None else str(folder),
            "report": None if folder is None else str(Path(folder) / REPORT),
            "methods": [method.model_dump(mode="json") for method in self.methods],
            **({"failed": [failed.model_dump(mode="json") for failed in self.failed]} if self.failed else {}),
        }


def summarise(
    user_scores: pl.DataFrame,
    card: TaskCard,
    costs: Mapping[System, MethodCost] | None = None,
    cards: Mapping[str, Tags] | None = None,
) -> list[MethodResult]:
    """Returns one result per method and base, in the order of the frame.

    Gains are taken over the references of the card's kind where these were run. Where one of them was run on
    several bases, a method is compared with the one on its own base, and with none when there is no such one.

    Args:
        user_scores: the frame that ``peftu.metrics.user_scores`` returns.
        card: names the main metric.
        costs: what each cost.
        cards: plain method name -> its card; fills scope, trained and uses_others_labels.

    Raises:
        PeftuError: the card's main metric is unknown or was not computed for its kind.
    """
    main = metrics.get(card.main_metric)
    matrix = user_matrix(user_scores, main.name)
    means, f1_means = bootstrap(matrix.values, bounds=main.bounds), _macro_f1(user_scores, len(matrix.systems))
    gains = {
        reference: paired_gains(matrix, reference, higher_is_better=main.higher_is_better, bounds=main.bounds)
        for reference in matrix.systems
        if reference.name in card.answers.references
    }
    rows = user_scores.group_by("method", "base").agg(pl.col("n_test", "n_scored").sum()).rows()
    tested = {System(method, base): (n_test, n_scored) for method, base, n_test, n_scored in rows}
    results = []
    for place, system in enumerate(matrix.systems):
        references = _references(matrix, system, card.answers.references)
        majority = gains[references[USER_MAJORITY]][place] if USER_MAJORITY in references else None
        tags = (cards or {}).get(system.name)
        n_test, n_scored = tested[system]
        results.append(
            MethodResult(
                method=system.method,
                base=system.base,
                **Score.of(means[place]).model_dump(),
                seeds=tuple(seed_means(user_scores, main.name, system)),
                gain={name: Score.of(gains[reference][place].estimate) for name, reference in references.items()},
                helped=majority and majority.helped,
                unchanged=majority and majority.unchanged,
                hurt=majority and majority.hurt,
                **_cost((costs or {}).get(system)),
                macro_f1=Score.of(f1_means[place]),
                users=means[place].users,
                scored=n_scored,
                unscored=n_test - n_scored,
                scope=tags.scope if tags else None,
                trained=tags.trained if tags else None,
                uses_others_labels=tags.uses_others_labels if tags else None,
            )
        )
    return results


def _macro_f1(user_scores: pl.DataFrame, systems: int) -> tuple[MeanEstimate, ...]:
    """Returns each system's macro-F1; nothing where the task has no labels."""
    if "macro_f1" not in user_scores.columns:
        return (MeanEstimate(None, None, None, 0),) * systems
    return bootstrap(user_matrix(user_scores, "macro_f1").values, bounds=(0.0, 1.0))


def _references(matrix: UserMatrix, compared: System, names: tuple[str, ...]) -> dict[str, System]:
    """Returns the reference systems that this one is compared with."""
    result = {}
    for name in names:
        candidates = [system for system in matrix.systems if system.name == name]
        candidates = [system for system in candidates if system.base == compared.base] or candidates
        if len(candidates) == 1:
            result[name] = candidates[0]
    return result


def _cost(cost: MethodCost | None) -> dict[str, Any]:
    fields = (cost or MethodCost()).model_dump()
    if fields["users_per_hour"] is None and fields["seconds_per_user"]:
        fields["users_per_hour"] = 3600 / fields["seconds_per_user"]
    return fields


@dataclass(frozen=True)
class Run:
    """A finished run folder whose files are what its record says they are."""

    folder: Path
    record: RunRecord

    def user_scores(self) -> pl.DataFrame:
        """Returns the scores of every user under every method and seed.

        Raises:
            PeftuError: the record does not list them, or has a method of which there are none.
        """
        scores = self._listed(USER_SCORES)
        known = {System(*row) for row in scores.select("method", "base").unique().rows()}
        for result in self.record.methods:
            if result.system not in known:
                where = f"{self.folder / RECORD}: methods: '{result.label}'"
                raise PeftuError(f"{where} has no scores — the record was changed or damaged; run again")
        return scores

    def predictions(self) -> pl.DataFrame:
        """Returns every prediction.

        Raises:
            PeftuError: the record does not list them.
        """
        return self._listed(PREDICTIONS)

    def _listed(self, name: str) -> pl.DataFrame:
        """Returns a table whose checksum the record has, and which was checked when the run was loaded."""
        if name not in {file.name for file in self.record.files}:
            where = f"{self.folder / RECORD}: files"
            raise PeftuError(f"{where}: do not list {name} — the record was changed or damaged; run again")
        return pl.read_parquet(self.folder / name, glob=False)


def start_folder(folder: Path) -> Path:
    """Returns the folder, made if need be and without a ``run.json``: from now on it is an unfinished run."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    owner_only(folder)  # it is to hold people's keys
    (folder / RECORD).unlink(missing_ok=True)
    return folder


def finish_folder(folder: Path, record: RunRecord) -> RunRecord:
    """Returns the record with the folder's files and their sha256, after writing it as the last file.

    Listed are the files that lie directly in the folder, without ``run.json`` itself and the report, which is a view
    that may be drawn again at any time. Sub-folders (a store of modules) keep their own checksums.
    """
    files = tuple(
        RunFile(name=path.name, bytes=path.stat().st_size, sha256=sha256_of(path))
        for path in sorted(Path(folder).iterdir())
        if path.is_file() and path.name not in (RECORD, REPORT) and not path.name.startswith(".")
    )
    finished = record.model_copy(update={"files": files})
    finished.write(folder)
    return finished


def load_run(folder: Path) -> Run:
    """Returns a run after checking every listed file against its sha256.

    Raises:
        PeftuError: the folder has no whole record, or a file is missing or was changed since.
    """
    folder = Path(folder)
    folder = folder.parent if folder.name == RECORD else folder
    while True:
        record = RunRecord.read(folder / RECORD)
        wrong = [path for file in record.files if not has_content(path := folder / file.name, file.sha256)]
        if not wrong:
            return Run(folder, record)
        if RunRecord.read(folder / RECORD) != record:  # a deletion has just renewed it, and them
            continue
        if not wrong[0].is_file():
            raise PeftuError(f"{wrong[0]}: listed in {RECORD} but missing — copy the whole folder, or run again")
        raise PeftuError(f"{wrong[0]}: differs from the sha256 in {RECORD} — restore the file, or run again")


def record_schema() -> dict[str, Any]:
    """Returns the JSON schema of the record; ``schemas/run-record-v1.json`` is its committed copy."""
    return RunRecord.model_json_schema(mode="serialization")
