"""A deleted user goes from the tables of a finished run, and its record is renewed; what is of all users stays."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import polars as pl

from peftu.execute.train_log import TRAIN_LOG
from peftu.files import private_file, put_waiting, sha256_of, sync_file, waiting_file
from peftu.judge import JUDGEMENT
from peftu.outside import parse_json
from peftu.results import PREDICTIONS, RECORD, REPORT, USER_SCORES, RunFile, RunRecord, load_run
from peftu.run_folder import claimed

PATIENCE = 60.0  # seconds that another deletion in the same run may take

Frames = Mapping[str, pl.DataFrame]


class Unlisted(NamedTuple):
    """What went of a user from a run's tables.

    Attributes:
        rows: of predictions and scores.
        log_kept: whether the user's lines are still in the training log, where it is not known which they are.
    """

    rows: int = 0
    log_kept: bool = False


def unlisted(run: Path, user: str) -> Unlisted:
    """Returns what went of a user from a run's predictions, scores, training log and judgement.

    The record's checksums are those of the new files, and it counts who was deleted. Users are numbered in the order of
    their keys in log and judgement: the deleted one's lines go, and those after them move up. The report goes, too:
    drawn anew it is without them.

    Args:
        run: a folder; one without a record is left as it is.
        user: the user's key.

    Raises:
        PeftuError: a file is not what the record says, or the folder cannot be written.
    """
    if not (run / RECORD).is_file():
        return Unlisted()
    with claimed(run, PATIENCE):
        record = load_run(run).record
        listed = {file.name for file in record.files}
        frames = {
            name: pl.read_parquet(run / name, glob=False) for name in (PREDICTIONS, USER_SCORES) if name in listed
        }
        kept = {name: frame.filter(pl.col("user_id") != user) for name, frame in frames.items()}
        gone = sum(len(frame) - len(kept[name]) for name, frame in frames.items())
        if not gone:
            return Unlisted()
        writers: dict[str, Callable[[Path], object]] = {name: frame.write_parquet for name, frame in kept.items()}
        for name, rewritten in ((TRAIN_LOG, _log), (JUDGEMENT, _judgement)):
            if name in listed:
                text = rewritten((run / name).read_text(encoding="utf-8"), frames, user)
                if text is not None:
                    writers[name] = partial(Path.write_text, data=text, encoding="utf-8")
        _replace(run, record.model_copy(update={"deleted_users": record.deleted_users + 1}), writers)
        (run / REPORT).unlink(missing_ok=True)
    return Unlisted(gone, TRAIN_LOG in listed and TRAIN_LOG not in writers)


def _replace(run: Path, record: RunRecord, writers: Mapping[str, Callable[[Path], object]]) -> None:
    """Puts new files into a run, and their sha256 into its record, all or none.

    They lie beside the old ones when the record is written: if this process is killed then, whoever loads the run puts
    them in their places.

    Args:
        run: the folder.
        record: as it is to be.
        writers: name of a file -> what writes it to a path.
    """
    kept, renewed = {file.name: file for file in record.files}, dict[str, RunFile]()
    for name, write in writers.items():
        path = private_file(waiting_file(run / name))
        write(path)
        sync_file(path)
        if sha256_of(path) == kept[name].sha256:
            path.unlink()
            continue
        renewed[name] = RunFile(name=name, bytes=path.stat().st_size, sha256=sha256_of(path))
    record.model_copy(update={"files": tuple((kept | renewed).values())}).write(run)
    for name, file in renewed.items():
        put_waiting(run / name, file.sha256)


def _numbers(frames: Frames, seed: int | None = None) -> list[str]:
    """Returns the users of a run's tables in the order of their numbers: of a seed's split, or of all scores."""
    if seed is None:
        return frames[USER_SCORES]["user_id"].unique().sort().to_list()
    of_seed = [frame.filter(pl.col("seed") == seed)["user_id"] for frame in frames.values()]
    return pl.concat(of_seed).unique().sort().to_list()


def _log(text: str, frames: Frames, user: str) -> str | None:
    """Returns a training log without a user; None: some of its users are in no table, so that numbers say nothing."""
    lines = [json.loads(line) for line in text.splitlines()]
    users = {seed: _numbers(frames, seed) for seed in {line["seed"] for line in lines}}
    if any((line["user"] or 0) > len(users[line["seed"]]) for line in lines):
        return None
    moved = [line | {"user": _moved(line["user"], users[line["seed"]], user)} for line in lines]
    return "".join(f"{json.dumps(line)}\n" for line in moved if line["user"] != 0)


def _judgement(text: str, frames: Frames, user: str) -> str:
    """Returns a judgement without what it says of a user alone."""
    judged, users = parse_json(text), _numbers(frames)
    shifts = []
    for shift in judged.get("shifts", ()):
        if number := _moved(shift["user"], users, user):
            words = shift["words"].replace(f"User {shift['user']} ", f"User {number} ", 1)
            shifts.append(shift | {"user": number, "words": words})
    return json.dumps(judged | {"shifts": shifts}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _moved(number: int | None, users: list[str], user: str) -> int | None:
    """Returns the number that one of the users has without another; 0: it is the other one. None is everybody's."""
    if number is None or user not in users:
        return number
    place = users.index(user) + 1
    return 0 if number == place else number - (number > place)
