"""Samples that lm-evaluation-harness logs (samples_TASK.jsonl): what a model was asked, and what it said."""

import json
import math
from collections.abc import Sequence
from typing import Any

import polars as pl

from peftu.data.readers.file import File
from peftu.data.readers.json_text import records_of
from peftu.data.readers.judgements import as_cell
from peftu.data.readers.source import RowProblem, RowsError, Source
from peftu.errors import PeftuError

ITEM, TARGET, OUTPUT, FILTER, PROBABILITIES = "doc_id", "target", "output", "filter", "probabilities"
RESPONSES = "filtered_resps"
NO_CHOICE = f"'{RESPONSES}' are not one answer, nor a likelihood for each choice — log the samples again"


class LmEval:
    """Reads a row a sample: the text that was made, or the likeliest choice and how likely each was."""

    name = "lm-eval"
    title = "samples of lm-evaluation-harness"
    plain = False

    def claims(self, file: File) -> bool:
        """Returns whether its objects have the fields of samples."""
        return {ITEM, "doc", TARGET, RESPONSES} <= (file.keys() if file.shape in ("lines", "array") else set())

    def open(self, file: File) -> Source:
        """Returns its rows, with the fields of each document; several filters are several methods.

        Raises:
            PeftuError: a sample holds several answers, or targets may be choices or their numbers.
        """
        rows: list[dict[str, str | None]] = []
        problems: list[RowProblem] = []
        records = records_of(file)
        by_number = _by_number(file, records)
        for number, record in enumerate(records, 1):
            answer = _answer(record)
            if answer is None or isinstance(record.get(TARGET), list | dict):
                problems.append((number, NO_CHOICE))
                continue
            choices, output, likelihoods = answer
            row = {ITEM: as_cell(record.get(ITEM)), TARGET: _target(record, choices if by_number else ())}
            row |= {OUTPUT: output, FILTER: as_cell(record.get(FILTER)), PROBABILITIES: likelihoods}
            doc = record.get("doc")
            for name, value in doc.items() if isinstance(doc, dict) else ():
                if not isinstance(value, list | dict):
                    row[f"doc.{name}" if name in row else name] = as_cell(value)
            rows.append(row)
        if problems:
            raise RowsError(file.path, problems)
        columns = dict.fromkeys(name for row in rows for name in row)
        frame = pl.DataFrame([pl.Series(name, [row.get(name) for row in rows], pl.String) for name in columns])
        roles = {"item": ITEM, "target": TARGET, "output": OUTPUT, "probabilities": PROBABILITIES, "method": FILTER}
        if frame[FILTER].n_unique() < 2:
            frame = frame.drop(roles.pop("method"))
        if frame[PROBABILITIES].null_count() == len(frame):
            frame = frame.drop(roles.pop("probabilities"))
        return Source.of_frame(file.path, self.title, frame, roles=roles)


READER = LmEval()


def _answer(record: dict[str, Any]) -> tuple[list[str], str | None, str | None] | None:
    """Returns the choices, the answer, and the choices' probabilities as JSON; None where they cannot be told."""
    given = record.get(RESPONSES)
    if isinstance(given, str):
        return [], given, None
    if not isinstance(given, list) or not given:
        return None
    if len(given) == 1 and (given[0] is None or isinstance(given[0], str)):
        return [], given[0], None
    choices = _choices(record)
    scores = [_likelihood(each) for each in given]
    best = max(scores)
    if len(choices) != len(scores) or len(set(choices)) < len(choices) or any(map(math.isnan, scores)):
        return None
    if math.isinf(best):
        return None
    weights = [math.exp(score - best) for score in scores]
    shares = {choice: weight / sum(weights) for choice, weight in zip(choices, weights, strict=True)}
    return choices, choices[scores.index(best)], json.dumps(shares, ensure_ascii=False)


def _likelihood(response: Any) -> float:
    """Returns the logarithm in [-1.2, false], both of which may be text; NaN where there is none."""
    try:
        return float(response[0]) if isinstance(response, list) and len(response) == 2 else math.nan
    except (TypeError, ValueError):
        return math.nan


def _choices(record: dict[str, Any]) -> list[str]:
    """Returns what each request asked the likelihood of."""
    requests = record.get("arguments")
    if isinstance(requests, dict):  # {"gen_args_0": {"arg_0": context, "arg_1": choice}}
        requests = [list(each.values()) if isinstance(each, dict) else None for each in requests.values()]
    if not isinstance(requests, list) or not all(isinstance(each, list) and len(each) == 2 for each in requests):
        return []
    return [str(each[1]).strip() for each in requests]


def _target(record: dict[str, Any], choices: Sequence[str]) -> str | None:
    target = as_cell(record.get(TARGET))
    if target is not None and target.isdecimal() and int(target) < len(choices):
        return choices[int(target)]
    return target.strip() if target is not None else None


def _by_number(file: File, records: Sequence[dict[str, Any]]) -> bool:
    """Returns whether targets are numbers of choices: they are, unless the logged accuracy says that they are choices.

    Raises:
        PeftuError: the file does not tell.
    """
    agree = {True: 0, False: 0}
    doubtful = False
    for record in records:
        choices, output, _ = _answer(record) or ([], None, None)
        target = _target(record, ())
        if not choices or target is None:
            continue
        doubtful |= target in choices and _target(record, choices) != target
        for by_number in agree:
            right = output == _target(record, choices if by_number else ())
            agree[by_number] += record.get("acc") is not None and bool(record["acc"]) == right
    if doubtful and agree[True] == agree[False]:
        raise PeftuError(f"{file.path}: targets can be choices or their numbers — log the samples with 'acc'")
    return not doubtful or agree[True] > agree[False]
