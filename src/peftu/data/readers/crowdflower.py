"""Full reports of CrowdFlower, later Figure Eight and Appen: every judgement of a job."""

import polars as pl

from peftu.data.readers.delimited import read_delimited
from peftu.data.readers.file import File
from peftu.data.readers.left_out import says, without
from peftu.data.readers.source import Source
from peftu.data.readers.times import written_as

USER, ITEM, TIME = "_worker_id", "_unit_id", "_created_at"
GOLD = "_gold"  # ends the column of a question's right answer, and so tells which columns are questions
REASON = "_gold_reason"
FORMS = ("%m/%d/%Y %H:%M:%S", "%Y-%m-%d %H:%M:%S")


class CrowdFlower:
    """Reads a row a judgement; answers of several lines, as of checkboxes, are lists."""

    name = "crowdflower"
    title = "a full report of CrowdFlower or Appen"
    plain = False

    def claims(self, file: File) -> bool:
        """Returns whether it has the columns of judgements."""
        header = set(file.header)
        return file.shape == "delimited" and {USER, ITEM, "_trust"} <= header and bool({"_golden", "_tainted"} & header)

    def open(self, file: File) -> Source:
        """Returns its rows; test questions, and judgements of those who failed at them, are left out."""
        header = set(file.header)
        questions = [name for name in dict.fromkeys(file.header) if name + GOLD in header and not name.startswith("_")]
        hidden = {name + end for name in questions for end in (GOLD, REASON)}
        columns = [name for name in dict.fromkeys(file.header) if name not in hidden]
        frame, notes = read_delimited(file, columns)
        marks = {"judgements of test questions": "_golden", "judgements of contributors who failed tests": "_tainted"}
        kept = without(frame, {what: says(name, "true") for what, name in marks.items() if name in header})
        frame = kept.frame.with_columns(_lines(kept.frame[name]) for name in questions)
        roles = {"user": USER, "item": ITEM}
        if TIME in header:
            times = written_as(frame[TIME], FORMS)
            if not times.null_count():
                frame, roles["time"] = frame.with_columns(times), TIME
        if len(questions) == 1:
            roles["label"] = questions[0]
        return Source.of_frame(
            file.path,
            "a full report of CrowdFlower or Appen",
            frame,
            roles=roles,
            questions=questions if len(questions) > 1 else (),
            notes=notes,
            left_out=kept.counts,
            places=kept.places,
        )


READER = CrowdFlower()


def _lines(answers: pl.Series) -> pl.Series:
    """Returns lists where some answers have several lines, else the answers."""
    if not answers.str.strip_chars().str.contains("\n", literal=True).any():
        return answers
    parts = answers.str.replace_all("\r\n", "\n", literal=True).str.strip_chars().str.split("\n")
    return parts.list.eval(pl.element().filter(pl.element() != ""))
