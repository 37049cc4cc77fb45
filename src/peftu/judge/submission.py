"""Anybody's predictions file, read into the frame that everything is judged from."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from peftu.answers import Answers, Kind, answers_of
from peftu.data.labelling import MISSING, as_number, as_text, canonical, in_order, read_cells, short, variant_notes
from peftu.data.problem import part_named
from peftu.data.readers.columns import NAMES as IMPORTED
from peftu.data.readers.columns import check_rivals, find_columns
from peftu.data.readers.file import Reading
from peftu.data.readers.reader import opened
from peftu.data.readers.source import Source
from peftu.data.task import TaskCard
from peftu.data.texts import with_controls
from peftu.errors import PeftuError
from peftu.metrics import PREDICTIONS
from peftu.metrics.generation import PREDICTED_VECTOR, TARGET_VECTOR
from peftu.outside import is_plain, parse_json, shown
from peftu.registry import did_you_mean

NAMES = {
    "user": IMPORTED["user"],
    "item": IMPORTED["item"],
    "target": ("target", "label", "gold", "gold_label", "reference", "references", "truth", "y_true"),
    "output": ("output", "predicted", "prediction", "predictions", "predicted_label", "response", "y_pred"),
    "part": ("part", "split", "partition"),
}  # fmt: skip
# Further columns, under just these names.
MORE = ("method", "seed", "n_train", "text", "context", "probabilities", TARGET_VECTOR, PREDICTED_VECTOR)
PLAIN = ("user", "item", "method", "seed", "part", "n_train", "text", "context")  # columns of one value a row
PARTS = ("train", "val", "test")
MOST_METHODS, LONGEST_NAME = 100, 200
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
        notes: what was inferred and should be known.
    """

    predictions: pl.DataFrame
    judgements: pl.DataFrame
    train: pl.DataFrame
    n_train: pl.DataFrame | None
    card: TaskCard
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ScoreOptions:
    """What is said of a predictions file; everything else is found.

    Attributes:
        columns: role ('user', 'item', 'target', 'output') -> name of the column, where it is not one of NAMES.
        kind: of the answers.
        labels: the label set in its order; empty: those of the targets, sorted (as numbers where they all are).
        metric: the main metric; None: accuracy, or ROUGE-L for text.
        name: what the data is called; None: the file's name.
        truth: a second file with user, item and target, when the first has no targets.
        reading: how the files are read.
    """

    columns: dict[str, str] = field(default_factory=dict)
    kind: Kind = "single"
    labels: tuple[str, ...] = ()
    metric: str | None = None
    name: str | None = None
    truth: Path | None = None
    reading: Reading | None = None


def read_submission(path: Path, how: ScoreOptions) -> Submission:
    """Returns the predictions in a file of any layout that a reader knows.

    Needed are columns user, item, target and output; an empty output is a row without an answer. Further ones are
    method, seed, part ('val' and 'train' rows are kept apart from 'test'), n_train, text, context, probabilities (a
    list in label order or an object by label, as JSON in csv and tsv) and, for kind 'text', target_vector and
    predicted_vector. What a label is, and how several stand in a cell, is the rule of ``peftu.data.labelling``.

    Raises:
        PeftuError: one line that names the file and the row or column that is wrong.
    """
    frame, notes = _read(path, how, ("user", "item", "output") if how.truth else ("user", "item", "target", "output"))
    if how.truth is not None:
        frame = _with_truth(path, frame, how)
    frame = _defaults(path, frame)
    _refuse_repeats(path, frame)
    answers = answers_of(how.kind)
    target, predicted = (_sets(path, frame, side, answers, how.labels, notes) for side in ("target", "output"))
    sided = frame.with_columns(target=target, predicted=predicted)
    _check_targets(path, sided, answers)
    card = _card(path, how, sided, notes)
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
    return Submission(rows, judgements, train, _n_train(sided, train), card, tuple(notes))


def _read(path: Path, how: ScoreOptions, needed: Sequence[str]) -> tuple[pl.DataFrame, list[str]]:
    """Returns the columns that are read under their own names, with ``row``, and remarks."""
    with opened(path, how.reading) as source:
        roles = dict(source.roles)
        if "label" in roles:  # a layout of judgements, which are what is to be predicted
            roles.setdefault("target", roles["label"])
        source = replace(source, roles=roles)
        if _is_by_item(source, how):
            lacking = {"user", "output"} if "probabilities" in roles else {"user"}
            needed = [role for role in needed if role not in lacking]
        given = {role: column for role, column in how.columns.items() if role in needed}
        names = {role: names for role, names in NAMES.items() if role in (*needed, "part")}
        role_columns = find_columns(source, names, given, needed, needed)
        more = {name: name for name in MORE if name in source.columns and name not in role_columns.chosen.values()}
        more |= {role: column for role, column in source.roles.items() if role in (*MORE, "place")}
        columns = {**role_columns.chosen, **more}
        rivals = [column for others in role_columns.rivals.values() for column in others]
        raw, notes = source.read(tuple(dict.fromkeys([*columns.values(), *rivals])))
    try:
        remarks = check_rivals(raw, role_columns.chosen, role_columns.rivals)
        plain = [as_text(raw[column], column).alias(role) for role, column in columns.items() if role in PLAIN]
    except PeftuError as error:
        raise PeftuError(f"{path}: {error}") from None
    others = [raw[column].alias(role) for role, column in columns.items() if role not in PLAIN]
    if source.places is None:
        places = pl.select(pl.format("row {}", pl.int_range(1, raw.height + 1)).alias("row")).to_series()
    else:
        places = pl.Series("row", list(source.places), pl.String)
    frame = pl.DataFrame([places, *plain, *others])
    for role in (role for role in ("user", "item") if role in frame.columns):
        stripped = frame[role].str.strip_chars()
        empty = frame.filter(stripped.is_null() | (stripped == ""))
        if len(empty):
            raise PeftuError(f"{path}: {empty['row'][0]}: {role} is empty — fill it in or leave the row out")
        _refuse_controls(path, frame, role)
        frame = frame.with_columns(stripped.alias(role))
    left_out = [f"{what}: {number:,} left out" for what, number in source.left_out.items()]
    return frame.rename({"user": "user_id", "item": "item_id"}, strict=False), [
        *source.notes,
        *notes,
        *remarks,
        *left_out,
    ]


def _with_truth(path: Path, frame: pl.DataFrame, how: ScoreOptions) -> pl.DataFrame:
    """Returns the rows of the truth with the answers to them; a row that nobody answered has none.

    Raises:
        PeftuError: answers for users or items that the truth lacks, or a judgement that stands there twice.
    """
    assert how.truth is not None  # noqa: S101
    truth, _ = _read(how.truth, how, ("user", "item", "target"))
    truth = truth.select(
        "row", "user_id", "item_id", "target", *(n for n in ("part", "text", "context") if n in truth.columns)
    )
    _refuse_repeats(how.truth, truth.with_columns(method=pl.lit(""), seed=pl.lit(0)))
    if "user_id" not in frame.columns:
        frame = _for_users(path, frame, truth, how)
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
    answers = frame.drop("row")
    return systems.join(truth, how="cross").join(answers, on=[*systems.columns, *keys], how="left", nulls_equal=True)


def _is_by_item(source: Source, how: ScoreOptions) -> bool:
    """Returns whether a layout has answers by item, for the users that the truth has of it."""
    roles = {*source.roles, *how.columns}
    return how.truth is not None and "item" in source.roles and "output" not in how.columns and "user" not in roles


def _for_users(path: Path, frame: pl.DataFrame, truth: pl.DataFrame, how: ScoreOptions) -> pl.DataFrame:
    """Returns answers by item as answers for users: the n-th is the truth's n-th user's, or one is for all of them.

    Raises:
        PeftuError: an item is not in the truth, or has more answers than users there.
    """
    if "output" not in frame.columns:  # probabilities alone
        targets = as_text(truth["target"], "target").drop_nulls().unique()
        labels = how.labels or in_order(set(map(canonical, targets)))
        likeliest = frame["probabilities"].list.arg_max()
        if frame["probabilities"].list.len().n_unique() > 1 or (likeliest.max() or 0) >= len(labels):  # type: ignore[operator]
            raise PeftuError(f"{path}: its lists are not of one probability a label ({len(labels)}) — mend them")
        frame = frame.with_columns(output=pl.Series(labels).gather(likeliest))
    users = truth.select("user_id", "item_id", place=(pl.int_range(pl.len()).over("item_id") + 1).cast(pl.String))
    keys = ["item_id", "place"] if "place" in frame.columns else ["item_id"]
    lost = frame.join(users, on=keys, how="anti")
    if len(lost):
        raise PeftuError(
            f"{path}: {lost['row'][0]}: {how.truth} has no such item, or fewer users of it — mend the file"
        )
    return users.join(frame, on=keys, how="inner").drop("place")


def _defaults(path: Path, frame: pl.DataFrame) -> pl.DataFrame:
    """Returns the frame with method, base, seed and part."""
    given = {
        "method": pl.lit(shown(path.stem)),
        "seed": pl.lit("0"),
        "part": pl.lit("test"),
        "base": pl.lit(None, pl.String),
    }
    frame = frame.with_columns(value.alias(name) for name, value in given.items() if name not in frame.columns)
    parts = {value: part_named(value) for value in frame["part"].drop_nulls().unique()}
    frame = frame.with_columns(
        pl.col("method").str.strip_chars().replace("", None),
        pl.col("seed").cast(pl.Float64, strict=False).cast(pl.Int64, strict=False),
        pl.col("part").replace_strict(parts, default=None, return_dtype=pl.String),
    )
    for name, wrong, mend in (
        ("method", pl.col("method").is_null(), "name the method in every row"),
        ("seed", pl.col("seed").is_null(), "write whole numbers"),
        ("part", pl.col("part").is_null(), f"write one of {', '.join(PARTS)}"),
    ):
        rows = frame.filter(wrong)
        if len(rows):
            raise PeftuError(f"{path}: {rows['row'][0]}: {name} is not usable — {mend}")
    _refuse_controls(path, frame, "method")
    methods = frame["method"].unique()
    if len(methods) > MOST_METHODS:
        raise PeftuError(f"{path}: holds {len(methods):,} methods — score at most {MOST_METHODS} at once")
    if methods.str.len_chars().max() > LONGEST_NAME:  # type: ignore[operator]
        raise PeftuError(f"{path}: a method's name is longer than {LONGEST_NAME} characters — shorten it")
    return frame


def _refuse_controls(path: Path, frame: pl.DataFrame, role: str) -> None:
    """Refuses names with control characters: what draws charts breaks off at them."""
    if rows := with_controls(frame[role]):
        raise PeftuError(f"{path}: {frame['row'][rows[0]]}: {role} holds a control character — take it out")


def _refuse_repeats(path: Path, frame: pl.DataFrame) -> None:
    keys = ["user_id", "item_id", "method", "seed"]
    repeated = frame.filter(pl.struct(keys).is_duplicated())
    if len(repeated):
        first, second = repeated.filter(pl.struct(keys) == repeated.select(pl.struct(keys)).to_series()[0])["row"][:2]
        raise PeftuError(f"{path}: {first} and {second} are of one user and item under one method and seed — keep one")


def _sets(
    path: Path, frame: pl.DataFrame, side: str, answers: Answers, known: Sequence[str], notes: list[str]
) -> pl.Series:
    """Returns lists of labels (or of one text); null where there is no answer."""
    column = frame[side]
    if not answers.labelled:
        if isinstance(column.dtype, pl.List):
            column = column.list.first()
        text = as_text(column, side)
        empty = text.is_null() | text.str.strip_chars().is_in(MISSING - {""})
        lists = pl.select(pl.when(~empty).then(pl.concat_list(text))).to_series()
    else:
        try:
            cells = read_cells(column, several=None if answers.exclusive else True, known=known)
        except PeftuError as error:
            raise PeftuError(f"{path}: {error}") from None
        if cells.problems:
            row, problem = cells.problems[0]
            raise PeftuError(f"{path}: {frame['row'][row - 1]}: {side}: {problem}")
        notes += cells.notes
        lists = cells.labels
        if answers.exclusive:
            lists = lists.set(lists.list.len() == 0, None)
        elif column.dtype == pl.String:
            lists = lists.set(column.str.strip_chars() == "", None)
        empty = lists.is_null()
    if side == "output" and (unanswered := int((empty & column.is_not_null()).sum())):
        notes.append(f"{unanswered:,} outputs are empty or stand for nothing (nan, None, …): they count as unanswered")
    return lists


def _check_targets(path: Path, frame: pl.DataFrame, answers: Answers) -> None:
    size, exclusive = pl.col("target").list.len(), pl.lit(answers.exclusive)
    wrong = frame.filter(size.is_null() | (exclusive & (size != 1)))
    if len(wrong) and not answers.exclusive:
        raise PeftuError(f"{path}: {wrong['row'][0]}: target is empty — write no label as [] in jsonl")
    if len(wrong):
        raise PeftuError(f"{path}: {wrong['row'][0]}: target has not exactly one label — or pass --kind multi")
    several = frame.filter(exclusive & (pl.col("predicted").list.len() > 1))
    if len(several):
        raise PeftuError(f"{path}: {several['row'][0]}: output has several labels — pass --kind multi")


def _check_vectors(path: Path, frame: pl.DataFrame, names: Sequence[str]) -> None:
    for name in names:
        empty = frame[name].clear()
        listed = isinstance(empty.dtype, pl.List | pl.Array)
        if empty.dtype != pl.Null and not (listed and empty.explode(empty_as_null=True).dtype.is_numeric()):
            raise PeftuError(f"{path}: column '{name}' holds no lists of numbers — write vectors in jsonl")
    if len(names) == 2 and not any(frame[name].dtype == pl.Null for name in names):
        sizes = [pl.col(name).cast(pl.List(pl.Float64)).list.len() for name in names]
        uneven = frame.filter(sizes[0] != sizes[1])
        if len(uneven):
            raise PeftuError(f"{path}: {uneven['row'][0]}: its two vectors are not equally long")


def _card(path: Path, how: ScoreOptions, frame: pl.DataFrame, notes: list[str]) -> TaskCard:
    answers = answers_of(how.kind)
    labels = _label_set(path, how, frame, answers, notes) if answers.labelled else ()
    name = shown(how.name or path.stem)
    return TaskCard(
        name=name, version="given", title=name, description="A predictions file.", user="a user in the file",
        kind=how.kind, labels=labels, instruction="",
        main_metric=how.metric or ("accuracy" if answers.labelled else "rouge_l"),
        language="unknown", licence="unknown", citation="unknown", homepage="unknown", files=(),
    )  # fmt: skip


def _label_set(
    path: Path, how: ScoreOptions, frame: pl.DataFrame, answers: Answers, notes: list[str]
) -> tuple[str, ...]:
    """Returns the labels that users gave, and after them what was put out and nobody ever gave, which is told.

    Raises:
        PeftuError: a label that is not among those asked for, only one label, or no output that is one.
    """
    if not all(map(is_plain, how.labels)):
        raise PeftuError("--labels: a label holds a control character — take it out")
    for side in ("target", "predicted"):
        _refuse_controls(path, frame.with_columns(frame[side].list.join("|").alias(side)), side)
    repeated = [label for label in how.labels if how.labels.count(label) > 1]
    if repeated:
        raise PeftuError(f"--labels: {repeated[0]!r} stands twice — name each label once")
    given, put_out = (
        frame[side].explode(empty_as_null=True, keep_nulls=True).drop_nulls().value_counts(sort=True, name="rows")
        for side in ("target", "predicted")
    )
    labels = how.labels or in_order(given["target"].to_list())
    unknown = sorted(set(given["target"]) - set(labels))
    if unknown:
        raise PeftuError(f"{path}: label {unknown[0]!r} is not among --labels{did_you_mean(unknown[0], labels)}")
    if len(labels) < 2:
        which = f"only the label {labels[0]!r} occurs" if labels else "no label occurs"
        raise PeftuError(f"{path}: {which} — name the label set with --labels")
    others = put_out.filter(~pl.col("predicted").is_in(labels))
    others = others.sort("rows", "predicted", descending=[True, False])
    scale = how.kind == "ordinal" and all(map(as_number, labels))
    if scale and all(map(as_number, others["predicted"])):
        return in_order([*labels, *others["predicted"]])
    if len(others):
        listed = ", ".join(f"'{short(label)}'" for label in others["predicted"][:3])
        more = ", …" if len(others) > 3 else ""
        if len(others) == len(put_out):
            raise PeftuError(f"{path}: no output is a label that a user gave ({listed}{more}) — mend the outputs")
        notes.append(
            f"{others['rows'].sum():,} outputs are labels that nobody gave, and count as wrong: {listed}{more}"
        )
    every = (*labels, *sorted(others["predicted"]))
    notes += variant_notes(every)
    return every


def _probabilities(path: Path, frame: pl.DataFrame, card: TaskCard) -> pl.Series:
    """Returns the log-probabilities of each row, null where there are none.

    Raises:
        PeftuError: a row's probabilities are not one for each label between 0 and 1, or do not add up to 1.
    """
    if "probabilities" not in frame.columns or not card.answers.labelled:
        return pl.Series("scores", [None] * len(frame), PREDICTIONS["scores"])
    given = frame["probabilities"]
    if not (isinstance(given.dtype, pl.List) and (given.list.len().drop_nulls() == len(card.labels)).all()):
        places = zip(frame["row"], given.to_list(), strict=True)
        given = pl.Series([_numbers(path, row, value, card.labels) for row, value in places])
    given = given.cast(pl.List(pl.Float64))
    row = pl.col("probabilities").list
    rows = pl.DataFrame({"probabilities": given, "row": frame["row"]}).drop_nulls()
    rows = rows.with_columns(total=row.sum(), low=row.min(), high=row.max())
    outside = rows.filter(~(pl.col("low") >= 0) | ~(pl.col("high") <= 1) | pl.col("total").is_nan())
    if len(outside):
        raise PeftuError(f"{path}: {outside['row'][0]}: a probability is not between 0 and 1")
    uneven = rows.filter((pl.col("total") - 1).abs() > _NEAR)
    if len(uneven) and card.answers.exclusive:
        first = uneven.row(0, named=True)
        raise PeftuError(f"{path}: {first['row']}: probabilities add up to {first['total']:.4g}, not 1")
    return given.list.eval(pl.element().log()).cast(PREDICTIONS["scores"]).alias("scores")


def _numbers(path: Path, row: str, given: Any, labels: Sequence[str]) -> list[float] | None:
    """Returns one number for each label; None where nothing is given."""
    try:
        value = parse_json(given) if isinstance(given, str) else given
        if value is None:
            return None
        if isinstance(value, dict):
            unknown = sorted(set(value) - set(labels))
            if unknown:
                raise PeftuError(f"{path}: {row}: probabilities name '{unknown[0]}'{did_you_mean(unknown[0], labels)}")
            value = [value.get(label) or 0.0 for label in labels]
        numbers = [float(number) for number in value]
    except (TypeError, ValueError, OverflowError):
        raise PeftuError(f"{path}: {row}: probabilities are no list of numbers and no object by label") from None
    if len(numbers) != len(labels):
        listed = ", ".join(labels)
        raise PeftuError(f"{path}: {row}: {len(numbers)} probabilities for {len(labels)} labels ({listed})")
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
