"""Responses to a Qualtrics survey: two more rows below the column names, and a column for each question."""

import polars as pl

from peftu.data.readers.delimited import read_delimited
from peftu.data.readers.file import File
from peftu.data.readers.left_out import says, without
from peftu.data.readers.source import Source

USER = "ResponseId"
PANELS = ("prolific_pid", "prolific_id", "pid", "workerid", "worker_id", "participant_id", "participantid")
KEY = '{"ImportId":'  # how each cell of the third row begins
TOP = 2  # rows below the names: what was asked, and the tool's own keys
PREVIEW = ("survey preview", "survey test", "preview", "test", "1", "2", "9", "17")
SPAM = ("spam", "8", "12", "40")
SHORTEST = 3  # columns that a survey has at least


class Qualtrics:
    """Reads a row a response; --wide-items makes rows of the questions, whose wording is kept with them."""

    name = "qualtrics"
    title = "a Qualtrics survey"
    plain = False

    def claims(self, file: File) -> bool:
        """Returns whether the third row holds the tool's keys."""
        if file.shape != "delimited" or len(file.dialect.rows) <= TOP:
            return False
        keys = [cell.lstrip().replace(" ", "").startswith(KEY) for cell in file.dialect.rows[TOP]]
        return len(keys) >= SHORTEST and all(keys)

    def open(self, file: File) -> Source:
        """Returns its responses; unfinished ones, previews and spam are left out."""
        columns = list(dict.fromkeys(file.header))
        frame, notes = read_delimited(file, columns)
        header, wordings = set(columns), frame.row(0)
        preview, spam = pl.lit(value=False), pl.lit(value=False)
        if "Status" in header:
            preview, spam = says("Status", *PREVIEW), says("Status", *SPAM)
        if "DistributionChannel" in header:
            preview |= says("DistributionChannel", "preview")
        reasons = {"previews of the survey": preview, "responses marked as spam": spam}
        if "Finished" in header:
            reasons["unfinished responses"] = says("Finished", "false", "0")
        kept = without(frame.slice(TOP), reasons, TOP)
        panel = next((name for name in columns if name.lower() in PANELS and (kept.frame[name] != "").all()), USER)
        return Source.of_frame(
            file.path,
            "a Qualtrics survey",
            kept.frame,
            roles={"user": panel} if panel in header else {},
            titles={name: title for name, title in zip(columns, wordings, strict=True) if title},
            notes=notes,
            left_out=kept.counts,
            places=kept.places,
        )


READER = Qualtrics()
