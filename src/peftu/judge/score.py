"""``peftu score``: anybody's predictions file, judged like a run."""

import hashlib
from pathlib import Path

import polars as pl

from peftu.data.texts import twins_notes
from peftu.judge.folder import FolderContents, tests_hash, write_board
from peftu.judge.majorities import with_majorities
from peftu.judge.shapes import Judgement
from peftu.judge.submission import ScoreOptions, read_submission
from peftu.results import Hashes, RunRecord

REGIME = "given"


def score_file(
    path: Path, out: Path, how: ScoreOptions, command: str | None = None, replace: bool = False
) -> tuple[RunRecord, pl.DataFrame, Judgement]:
    """Returns record, user scores and judgement of a predictions file, after writing them to a run folder.

    Where the file has rows of part 'train', the majorities are computed from them and stand on the board.

    Raises:
        PeftuError: one line on what is wrong with the file, or with the folder.
    """
    submission = read_submission(path, how)
    predictions = with_majorities(submission.predictions, submission.train, submission.card)
    seeds = predictions.filter(pl.col("part") == "test")["seed"].unique().sort().to_list()
    data = hashlib.sha256(path.read_bytes()).hexdigest()
    contents = FolderContents(
        predictions=predictions,
        card=submission.card,
        regime=REGIME,
        hashes=Hashes(data=f"sha256:{data}", splits={str(seed): tests_hash(predictions, seed) for seed in seeds}),
        spec={"scored": path.name, "kind": how.kind, "labels": list(submission.card.labels)},
        judgements=submission.judgements,
        n_train=submission.n_train,
        warnings=(*submission.notes, *twins_notes(submission.judgements, ())),
    )
    return write_board(contents, out, command, replace)
