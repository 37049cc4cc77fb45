"""Anybody's predictions file, read into the frame that everything is judged from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from peftu.answers import Answers, Kind, answers_of
from peftu.data.task import TaskCard
from peftu.data.texts import with_controls
from peftu.errors import PeftuError
from peftu.metrics import PREDICTIONS
from peftu.metrics.generation import PREDICTED_VECTOR, TARGET_VECTOR
from peftu.outside import is_plain, parse_json, plain_file, shown
from peftu.registry import did_you_mean

NAMES = {
    "user": ("user", "user_id", "annotator", "annotator_id"),
    "item": ("item", "item_id", "text_id", "id"),
    "target": ("target", "label", "gold"),
    "output": ("output", "predicted", "prediction"),
}
OPTIONAL = ("method", "seed", "part", "n_train", "text", "context", "probabilities", TARGET_VECTOR, PREDICTED_VECTOR)
PLAIN = ("user", "item", "method", "seed", "part", "n_train", "text", "context")  # columns of one value a row
PARTS = ("train", "val", "test")
SEPARATOR = "|"
_NEAR = 1e-3  # how far from 1 the probabilities of a row may add up


@dataclass(frozen=True)
class Submission:
    """A predictions file as read.

    Attributes:
        predictions: the frame described by ``peftu.metrics.PREDICTIONS``, rows of part 'val' and 'test'.
        judgements: user_id, item_id, target (and text, context) of every judgement in the file, once.
        train: user_id, item_id, target of rows of part 'train'.
        n_train: seed, user_id, n_train where the file tells or has training rows, else None.
        card: a card made up from the file.
    """

    predictions: pl.DataFrame
    judgements: pl.DataFrame
    train: pl.DataFrame
    n_train: pl.DataFrame | None
    card: TaskCard


@dataclass(frozen=True)
class Reading:
    """How a file is read.

    Attributes:
        columns: role ('user', 'item', 'target', 'output') -> name of the column, where it is not one of NAMES.
        kind: of the answers.
        labels: the label set in its order; empty: those that occur, sorted (as numbers where they all are).
        metric: the main metric; None: accuracy, or ROUGE-L for text.
        name: what the data is called; None: the file's name.
        truth: a second file with user, item and target, when the first has no targets.
    """

    columns: dict[str, str]
    kind: Kind = "single"
    labels: tuple[str, ...] = ()
    metric: str | None = None
    name: str | None = None
    truth: Path | None = None


def read_submission(path: Path, how: Reading) -> Submission:
    """Returns the predictions in a csv, tsv, jsonl or parquet file.

    Needed are columns user, item, target and output; an empty output is a row without an answer. Further ones are
    method, seed, part ('val' and 'train' rows are kept apart from 'test'), n_train, text, context, probabilities (a
    list in label order or an object by label, as JSON in csv and tsv) and, for kind 'text', target_vector and
    predicted_vector. Several labels stand in a list, or in one field with '|' between them.

    Raises:
        PeftuError: one line that names the file and the row or column that is wrong.
    """
    frame = _roles(path, _read(path), how, ("user", "item", "output") + (() if how.truth else ("target",)))
    if how.truth is not None:
        frame = _with_truth(path, frame, how)
    if frame.is_empty():
        raise PeftuError(f"{path}: holds no rows — nothing can be scored")
    frame = _defaults(path, frame)
    _refuse_repeats(path, frame)
    answers = answers_of(how.kind)
    sided = frame.with_columns(
        target=_sets(path, frame["target"], answers), predicted=_sets(path, frame["output"], answers)
    )
    card = _card(path, how, sided)
    _check_targets(path, sided, answers)
    sided = sided.with_columns(_probabilities(path, sided, card))
    known = [name for name in ("text", "context") if name in sided.columns]
    judgements = sided.select("user_id", "item_id", "target", *known).unique(["user_id", "item_id"], keep="first")
    train = sided.filter(pl.col("part") == "train").select("user_id", "item_id", "target")
    train = train.unique(["user_id", "item_id"], maintain_order=True)
    vectors = [name for name in (TARGET_VECTOR, PREDICTED_VECTOR) if name in sided.columns]
    _check_vectors(path, sided, vectors)
    rows = sided.filter(pl.col("part") != "train").select(*PREDICTIONS, *vectors)
    if rows.filter(pl.col("part") == "test").is_empty():
        raise PeftuError(f"{path}: no row of part 'test' — nothing can be scored")
    return Submission(rows, judgements, train, _n_train(sided, train), card)


def _read(path: Path) -> pl.DataFrame:
    plain_file(path)
    try:
        match path.suffix.lower():
            case ".csv" | ".tsv":
                separator = "," if path.suffix.lower() == ".csv" else "\t"
                return pl.read_csv(path, separator=separator, infer_schema=False, glob=False)
            case ".jsonl" | ".ndjson":
                return pl.DataFrame(_json_rows(path), infer_schema_length=None, strict=False)
            case ".parquet":
                return pl.read_parquet(path, glob=False)
            case _:
                raise PeftuError(f"{path}: is no csv, tsv, jsonl or parquet file — name it as what it is")
    except FileNotFoundError:
        raise PeftuError(f"{path}: no such file — pass a predictions file") from None
    except (OSError, ValueError, TypeError, pl.exceptions.PolarsError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise PeftuError(f"{path}: cannot be read ({reason}) — mend the file") from None


def _json_rows(path: Path) -> list[Any]:
    rows = []
    lines = path.read_text(encoding="utf-8").split("\n")  # other line breaks may stand inside texts
    for number, line in enumerate(filter(str.strip, lines), 1):
        try:
            rows.append(parse_json(line))
        except ValueError as error:
            raise PeftuError(f"{path}: row {number}: is no JSON to be read ({error}) — mend the row") from None
    return rows


def _roles(path: Path, frame: pl.DataFrame, how: Reading, roles: Sequence[str]) -> pl.DataFrame:
    """Returns the columns that are read, under their own names."""
    columns: dict[str, str] = {}
    for role in roles:
        named = how.columns.get(role)
        candidates = (named,) if named else NAMES[role]
        name = next((name for name in candidates if name in frame.columns), None)
        if name is None:
            hint = did_you_mean(named or role, frame.columns)
            raise PeftuError(f"{path}: column '{named or role}' is missing{hint}; name it with --{role}")
        columns[role] = name
    more = [name for name in OPTIONAL if name in frame.columns and name not in columns.values()]
    frame = frame.select(*(pl.col(name).alias(role) for role, name in columns.items()), *more)
    for name in PLAIN:
        if name in frame.columns and frame[name].dtype.is_nested():
            raise PeftuError(
                f"{path}: column '{columns.get(name, name)}' holds lists or objects — write one value a row"
            )
    for role in ("user", "item"):
        frame = frame.with_columns(pl.col(role).cast(pl.String))
        empty = frame.with_row_index("row", 1).filter(pl.col(role).is_null() | (pl.col(role) == ""))
        if len(empty):
            raise PeftuError(f"{path}: row {empty['row'][0]}: {role} is empty — fill it in or leave the row out")
        _refuse_controls(path, frame[role], role)
    return frame.rename({"user": "user_id", "item": "item_id"})


def _with_truth(path: Path, frame: pl.DataFrame, how: Reading) -> pl.DataFrame:
    """Returns the rows of the truth with the answers to them; a row that nobody answered has none.

    Raises:
        PeftuError: answers for users or items that the truth lacks, or a judgement that stands there twice.
    """
    assert how.truth is not None  # noqa: S101
    truth = _roles(how.truth, _read(how.truth), how, ("user", "item", "target"))
    truth = truth.select(
        "user_id", "item_id", "target", *(n for n in ("part", "text", "context") if n in truth.columns)
    )
    _refuse_repeats(how.truth, truth.with_columns(method=pl.lit(""), seed=pl.lit(0)))
    keys = ["user_id", "item_id"]
    users = frame.join(truth, on="user_id", how="anti")["user_id"].n_unique()
    if users:
        raise PeftuError(
            f"{path}: answers for {users} users that {how.truth} lacks — leave them out or add their truth"
        )
    items = frame.join(truth, on=keys, how="anti").height
    if items:
        raise PeftuError(f"{path}: {items} answers to items that {how.truth} does not have for these users")
    frame = _defaults(path, frame.drop("part", "text", "context", "target", strict=False)).drop("part")
    systems = frame.select("method", "base", "seed").unique(maintain_order=True)
    return systems.join(truth, how="cross").join(frame, on=[*systems.columns, *keys], how="left", nulls_equal=True)


def _defaults(path: Path, frame: pl.DataFrame) -> pl.DataFrame:
    """Returns the frame with method, base, seed and part."""
    given = {
        "method": pl.lit(shown(path.stem)),
        "seed": pl.lit("0"),
        "part": pl.lit("test"),
        "base": pl.lit(None, pl.String),
    }
    frame = frame.with_columns(value.alias(name) for name, value in given.items() if name not in frame.columns)
    frame = frame.with_columns(pl.col("method", "part").cast(pl.String), pl.col("seed").cast(pl.Int64, strict=False))
    numbered = frame.with_row_index("row", 1)
    for name, wrong, mend in (
        ("method", pl.col("method").is_null(), "name the method in every row"),
        ("seed", pl.col("seed").is_null(), "write whole numbers"),
        ("part", ~pl.col("part").is_in(PARTS).fill_null(value=False), f"write one of {', '.join(PARTS)}"),
    ):
        rows = numbered.filter(wrong)
        if len(rows):
            raise PeftuError(f"{path}: row {rows['row'][0]}: {name} is not usable — {mend}")
    _refuse_controls(path, frame["method"], "method")
    return frame


def _refuse_controls(path: Path, names: pl.Series, role: str) -> None:
    """Refuses names with control characters: what draws charts breaks off at them."""
    if rows := with_controls(names):
        raise PeftuError(f"{path}: row {rows[0] + 1}: {role} holds a control character — take it out")


def _refuse_repeats(path: Path, frame: pl.DataFrame) -> None:
    keys = ["user_id", "item_id", "method", "seed"]
    repeated = frame.with_row_index("row", 1).filter(pl.struct(keys).is_duplicated())
    if len(repeated):
        first, second = repeated.filter(pl.struct(keys) == repeated.select(pl.struct(keys)).to_series()[0])["row"][:2]
        raise PeftuError(
            f"{path}: rows {first} and {second} are of one user and item under one method and seed — keep one"
        )


def _sets(path: Path, column: pl.Series, answers: Answers) -> pl.Series:
    """Returns lists of labels (or of one text); null where there is no answer."""
    if isinstance(column.dtype, pl.List):
        lists = column.cast(pl.List(pl.String))
        return lists.set(lists.list.len() == 0, None) if answers.exclusive else lists
    if column.dtype.is_nested():
        raise PeftuError(f"{path}: column '{column.name}' holds objects — write labels")
    text = column.cast(pl.String)
    text = text.set(text == "", None) if answers.labelled else text
    if not answers.exclusive:
        return text.str.split(SEPARATOR)
    return pl.DataFrame({"text": text}).select(pl.when(pl.col("text").is_not_null()).then(pl.concat_list("text")))[
        "text"
    ]


def _check_targets(path: Path, frame: pl.DataFrame, answers: Answers) -> None:
    size, exclusive = pl.col("target").list.len(), pl.lit(answers.exclusive)
    wrong = frame.with_row_index("row", 1).filter(size.is_null() | (exclusive & (size != 1)))
    if len(wrong) and not answers.exclusive:
        raise PeftuError(f"{path}: row {wrong['row'][0]}: target is empty — write no label as [] in jsonl")
    if len(wrong):
        raise PeftuError(f"{path}: row {wrong['row'][0]}: target has not exactly one label — or pass --kind multi")
    several = frame.with_row_index("row", 1).filter(exclusive & (pl.col("predicted").list.len() > 1))
    if len(several):
        raise PeftuError(f"{path}: row {several['row'][0]}: output has several labels — pass --kind multi")


def _check_vectors(path: Path, frame: pl.DataFrame, names: Sequence[str]) -> None:
    for name in names:
        empty = frame[name].clear()
        listed = isinstance(empty.dtype, pl.List | pl.Array)
        if empty.dtype != pl.Null and not (listed and empty.explode(empty_as_null=True).dtype.is_numeric()):
            raise PeftuError(f"{path}: column '{name}' holds no lists of numbers — write vectors in jsonl")
    if len(names) == 2 and not any(frame[name].dtype == pl.Null for name in names):
        sizes = [pl.col(name).cast(pl.List(pl.Float64)).list.len() for name in names]
        uneven = frame.with_row_index("row", 1).filter(sizes[0] != sizes[1])
        if len(uneven):
            raise PeftuError(f"{path}: row {uneven['row'][0]}: its two vectors are not equally long")


def _card(path: Path, how: Reading, frame: pl.DataFrame) -> TaskCard:
    labels: tuple[str, ...] = ()
    if answers_of(how.kind).labelled:
        if not all(map(is_plain, how.labels)):
            raise PeftuError("--labels: a label holds a control character — take it out")
        for side in ("target", "predicted"):
            _refuse_controls(path, frame[side].list.join(SEPARATOR), side)
        given = pl.concat(
            [frame[side].explode(empty_as_null=True, keep_nulls=True) for side in ("target", "predicted")]
        )
        labels = how.labels or _sorted(given.drop_nulls().unique().to_list())
        unknown = sorted(set(given.drop_nulls().unique().to_list()) - set(labels))
        if unknown:
            raise PeftuError(f"{path}: label {unknown[0]!r} is not among --labels{did_you_mean(unknown[0], labels)}")
        repeated = [label for label in labels if labels.count(label) > 1]
        if repeated:
            raise PeftuError(f"--labels: {repeated[0]!r} stands twice — name each label once")
        if len(labels) < 2:
            which = f"only the label {labels[0]!r} occurs" if labels else "no label occurs"
            raise PeftuError(f"{path}: {which} — name the label set with --labels")
    name = shown(how.name or path.stem)
    return TaskCard(
        name=name, version="given", title=name, description="A predictions file.", user="a user in the file",
        kind=how.kind, labels=labels, instruction="",
        main_metric=how.metric or ("accuracy" if answers_of(how.kind).labelled else "rouge_l"),
        language="unknown", licence="unknown", citation="unknown", homepage="unknown", files=(),
    )  # fmt: skip


def _sorted(labels: list[str]) -> tuple[str, ...]:
    try:
        return tuple(sorted(labels, key=float))
    except ValueError:
        return tuple(sorted(labels))


def _probabilities(path: Path, frame: pl.DataFrame, card: TaskCard) -> pl.Series:
    """Returns the log-probabilities of each row, null where there are none.

    Raises:
        PeftuError: a row's probabilities are not one for each label between 0 and 1, or do not add up to 1.
    """
    if "probabilities" not in frame.columns or not card.answers.labelled:
        return pl.Series("scores", [None] * len(frame), PREDICTIONS["scores"])
    given = frame["probabilities"]
    if not (isinstance(given.dtype, pl.List) and (given.list.len().drop_nulls() == len(card.labels)).all()):
        given = pl.Series([_numbers(path, row, value, card.labels) for row, value in enumerate(given.to_list(), 1)])
    given = given.cast(pl.List(pl.Float64))
    row = pl.col("probabilities").list
    rows = pl.DataFrame({"probabilities": given}).with_row_index("row", 1).drop_nulls()
    rows = rows.with_columns(total=row.sum(), low=row.min(), high=row.max())
    outside = rows.filter(~(pl.col("low") >= 0) | ~(pl.col("high") <= 1) | pl.col("total").is_nan())
    if len(outside):
        raise PeftuError(f"{path}: row {outside['row'][0]}: a probability is not between 0 and 1")
    uneven = rows.filter((pl.col("total") - 1).abs() > _NEAR)
    if len(uneven) and card.answers.exclusive:
        first = uneven.row(0, named=True)
        raise PeftuError(f"{path}: row {first['row']}: probabilities add up to {first['total']:.4g}, not 1")
    return given.list.eval(pl.element().log()).cast(PREDICTIONS["scores"]).alias("scores")


def _numbers(path: Path, row: int, given: Any, labels: Sequence[str]) -> list[float] | None:
    """Returns one number for each label; None where nothing is given."""
    try:
        value = parse_json(given) if isinstance(given, str) else given
        if value is None:
            return None
        if isinstance(value, dict):
            unknown = sorted(set(value) - set(labels))
            if unknown:
                raise PeftuError(
                    f"{path}: row {row}: probabilities name '{unknown[0]}'{did_you_mean(unknown[0], labels)}"
                )
            value = [value.get(label) or 0.0 for label in labels]
        numbers = [float(number) for number in value]
    except (TypeError, ValueError, OverflowError):
        raise PeftuError(f"{path}: row {row}: probabilities are no list of numbers and no object by label") from None
    if len(numbers) != len(labels):
        listed = ", ".join(labels)
        raise PeftuError(f"{path}: row {row}: {len(numbers)} probabilities for {len(labels)} labels ({listed})")
    return numbers


def _n_train(frame: pl.DataFrame, train: pl.DataFrame) -> pl.DataFrame | None:
    keys = ["seed", "user_id"]
    if "n_train" in frame.columns:
        return frame.group_by(keys).agg(pl.col("n_train").cast(pl.Int64, strict=False).max())
    if train.is_empty():
        return None
    counts = train.group_by("user_id").agg(n_train=pl.len().cast(pl.Int64))
    counted = frame.select(keys).unique().join(counts, on="user_id", how="left")
    return counted.with_columns(pl.col("n_train").fill_null(0))
