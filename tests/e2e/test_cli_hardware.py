"""Runs on hardware that is asked for: recorded, opened again, and refused in one line where it is not here."""

import json
from pathlib import Path
from typing import Any

import pytest
from terminal import TASK, peftu

RUN = ("run", TASK, "--method", "lora[rank=1]@./llama", "--raw", "raw", "--users", 4, "--epochs", 1)
ASK = ("--user", "user-1", "--text", "x")


def record_of(folder: Path) -> Any:
    return json.loads((folder / "run.json").read_text())


def test_a_run_on_a_quantised_base_says_so_and_opens_as_it_was(place: Path) -> None:
    pytest.importorskip("bitsandbytes")
    said = peftu(*RUN, "--out", "four", "--device", "cpu", "--quantize", "nf4", "--json")
    assert said.code == 0, said.err
    record = record_of(place / "four")
    assert (record["quantized"], record["dtypes"]) == ({"./llama": "nf4"}, {"./llama": "float32"})
    assert record["devices"] == ["cpu"]

    def answer(*options: object) -> Any:
        said = peftu("predict", "four", *ASK, *options, "--json")
        assert said.code == 0, said.err
        return said.json

    same, whole = answer(), answer("--quantize", "none")
    assert same["notes"] == []
    (note,) = whole["notes"]
    assert "fitted on cpu in float32 and nf4, opened on cpu in float32: scores differ by" in note
    assert same["answers"] != whole["answers"]
    plain = peftu(*RUN, "--out", "whole", "--json")
    assert plain.code == 0, plain.err
    assert record["hashes"] == record_of(place / "whole")["hashes"]


def test_a_config_file_says_it_too_and_flags_win(place: Path) -> None:
    (place / "half.yaml").write_text("dtype: bfloat16\ndevice: cpu\n")
    for flags, dtype in (((), "bfloat16"), (("--dtype", "float32"), "float32")):
        said = peftu(*RUN, "--config", "half.yaml", *flags, "--out", dtype, "--json")
        assert said.code == 0, said.err
        assert record_of(place / dtype)["dtypes"] == {"./llama": dtype}


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--device", "cuda"), "--device cuda: "),
        (("--device", "mps"), "--device mps: is a Mac's GPU"),
        (("--device", "gpu"), "device: is none of auto, cpu, cuda, cuda:N, mps (got 'gpu')"),
        (("--dtype", "float16"), "--dtype float16: cpu has none — use float32 or bfloat16"),
        (("--dtype", "half"), "dtype: unknown value 'half'"),
        (("--quantize", "int4"), "quantize: unknown value 'int4' — did you mean 'int8'"),
        (("--gpus", 1), "--gpus: is for --executor ray"),
    ],
)
@pytest.mark.usefixtures("place")
def test_hardware_that_is_not_here_is_refused(options: tuple[object, ...], complaint: str, tmp_path: Path) -> None:
    said = peftu(*RUN, "--out", tmp_path / "out", *options)
    assert said.code == 2, said.err
    assert complaint in said.err.splitlines()[-1]
    assert not (tmp_path / "out" / "run.json").exists()


def test_cells_of_several_devices_make_a_run_that_warns(place: Path, tmp_path: Path) -> None:
    def record(out: str) -> Any:
        said = peftu(*RUN, "--seeds", 2, "--cells", tmp_path / "cells", "--out", out, "--json")
        assert said.code == 0, said.err
        return record_of(place / out)

    first = record("alike")
    assert not any("rounding" in warning for warning in first["warnings"])
    cell = tmp_path / "cells" / first["cells"][0]["name"] / "cell.json"
    about = json.loads(cell.read_text())
    about["environment"]["device"] = "a card"
    cell.write_text(json.dumps(about))
    second = record("mixed")
    assert second["devices"] == ["a card", "cpu"]
    assert "bases computed on a card and on cpu: rounding differs" in second["warnings"]
    assert second["methods"][0]["seeds"] == first["methods"][0]["seeds"]
