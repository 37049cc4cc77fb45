"""Confidence in bins, against a plain loop."""

import polars as pl
import pytest

from peftu.judge.calibration import reliability
from peftu.metrics.rows import scored_rows
from peftu.report.example import CARD, example_predictions


def test_bins_are_those_of_a_plain_loop() -> None:
    predictions = example_predictions(12, seeds=2)
    found = {one.system.label: one for one in reliability(scored_rows(predictions, CARD), CARD)}
    assert list(found) == [
        *("user-majority", "global@minilm", "zero-shot@smollm2", "mixed-head@minilm", "lora[r=4]@smollm2"),
        "ia3@smollm2",
    ]
    rows = scored_rows(predictions, CARD).filter(pl.col("method") == "ia3").select("confidence", "right").rows()
    gap = 0.0
    for bin_ in found["ia3@smollm2"].bins:
        inside = [(sure, right) for sure, right in rows if bin_.low < sure <= bin_.high]
        assert bin_.rows == len(inside)
        assert bin_.confidence == pytest.approx(sum(sure for sure, _ in inside) / len(inside))
        assert bin_.right == pytest.approx(sum(right for _, right in inside) / len(inside))
        gap += abs(sum(sure - right for sure, right in inside))
    assert found["ia3@smollm2"].rows == len(rows)
    assert found["ia3@smollm2"].error == pytest.approx(gap / len(rows))


def test_no_probabilities_no_bins() -> None:
    predictions = example_predictions(12, seeds=1).with_columns(scores=pl.lit(None, pl.List(pl.Float32)))
    assert reliability(scored_rows(predictions, CARD), CARD) == ()
    several = CARD.model_copy(update={"kind": "multi"})
    assert reliability(scored_rows(example_predictions(12, seeds=1), several), several) == ()
