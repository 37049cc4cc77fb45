"""Where a base computes and in which numbers: what 'auto' comes to, what is refused, and what is said elsewhere."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from peftu.bank import Layout
from peftu.base import hardware
from peftu.base.hardware import resolved
from peftu.config import HardwareSpec, RunSpec
from peftu.errors import PeftuError
from peftu.fitted.folder import ABOUT, load
from peftu.fitted.guarded import GuardedFitted
from peftu.lab.lab import Lab
from peftu.methods.lora import Lora
from peftu.predict import score
from peftu.testing import CPU, FAMILIES, load_tiny, tiny_base, tiny_prompt, tiny_texts, tiny_units
from peftu.testing.fitted import fit_tiny
from peftu.train import TrainSpec, train

APART = 0.1  # log-probabilities, between a module's answers in bfloat16 and in float32


def cards(patch: pytest.MonkeyPatch, *majors: int) -> None:
    """Makes torch see cards of these compute capabilities."""
    cuda = torch.cuda
    patch.setattr(cuda, "is_available", lambda: bool(majors))
    patch.setattr(cuda, "device_count", lambda: len(majors))
    patch.setattr(cuda, "get_device_properties", lambda device: SimpleNamespace(major=majors[device.index or 0]))
    patch.setattr(cuda, "get_device_name", lambda device: f"card of {majors[device.index or 0]}.x")
    patch.setattr(torch.version, "cuda", "13.0")


@pytest.mark.parametrize(
    ("majors", "given", "came_to"),
    [
        ((), {}, ("cpu", "float32", "none")),
        ((), {"dtype": "bfloat16"}, ("cpu", "bfloat16", "none")),
        ((8,), {}, ("cuda", "bfloat16", "none")),
        ((8,), {"device": "cpu"}, ("cpu", "float32", "none")),
        ((7,), {}, ("cuda", "float32", "none")),
        ((7,), {"dtype": "float16"}, ("cuda", "float16", "none")),
        ((7, 9), {"device": "cuda:1"}, ("cuda:1", "bfloat16", "none")),
        ((9,), {"quantize": "nf4"}, ("cuda", "bfloat16", "nf4")),
    ],
)
def test_auto_takes_the_gpu_and_the_fastest_dtype_that_trains(
    majors: tuple[int, ...], given: dict[str, Any], came_to: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    cards(monkeypatch, *majors)
    assert tuple(resolved(HardwareSpec(**given)).model_dump().values()) == came_to


@pytest.mark.parametrize(
    ("majors", "given", "complaint"),
    [
        ((), {"device": "cuda"}, "--device cuda: torch sees no GPU here — use --device cpu"),
        ((8,), {"device": "cuda:1"}, "--device cuda:1: there are 1 GPUs, the last is cuda:0 — use that one"),
        ((), {"device": "mps"}, "--device mps: is a Mac's GPU, and there is none here — use --device cpu"),
        ((7,), {"dtype": "bfloat16"}, "--dtype bfloat16: card of 7.x has none — use float32 or float16"),
        ((), {"dtype": "float16"}, "--dtype float16: cpu has none — use float32 or bfloat16"),
    ],
)
def test_hardware_that_is_not_here_is_refused_in_a_line(
    majors: tuple[int, ...], given: dict[str, Any], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards(monkeypatch, *majors)
    with pytest.raises(PeftuError, match=re.escape(complaint)):
        resolved(HardwareSpec(**given))


def test_a_missing_library_of_quantised_bases_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "find_spec", lambda package: None if package == "bitsandbytes" else package)
    with pytest.raises(PeftuError, match=r"--quantize nf4: needs bitsandbytes — pip install 'peftu\[quantize\]'"):
        resolved(HardwareSpec(quantize="nf4"))


def test_a_run_is_the_same_on_every_device_and_another_in_other_numbers() -> None:
    run = RunSpec(task="t", methods=({"name": "lora"},))  # type: ignore[arg-type]
    on = {name: run.model_copy(update={name: value}).run_id for name, value in
          {"device": "cpu", "dtype": "bfloat16", "quantize": "nf4"}.items()}  # fmt: skip
    assert on["device"] == run.run_id
    assert len({*on.values()}) == 3


@pytest.mark.parametrize("family", FAMILIES)
def test_modules_trained_in_bfloat16_answer_in_float32(family: str) -> None:
    bases = [tiny_base(family, dtype=dtype) for dtype in (torch.bfloat16, torch.float32)]
    region = bases[0].region(None)
    layout = Layout(Lora(rank=2), bases[0].sites(region, 2))
    contexts = [base.prefill(tiny_prompt(), tiny_texts(12), region) for base in bases]
    units = tiny_units((6, 5), texts=12)
    rows = train(bases[0], contexts[0], layout, units, TrainSpec(epochs=3, lr=1e-2, batch=4), 0).rows
    texts, which = np.tile(np.arange(12), 2), np.repeat(np.arange(2), 12)
    ours, theirs = (score(b, c, texts, layout, rows, which) for b, c in zip(bases, contexts, strict=True))
    assert 0 < np.abs(ours - theirs).max() < APART


# --- opened elsewhere ------------------------------------------------------------------------------------------------

METHODS = ("lora[rank=2]", "global", "hypernet[rank=1]", "zero-shot", "mixed-head@bert", "few-shot")
HALF = HardwareSpec(device="cpu", dtype="bfloat16")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    for room in ("peftu.lab.lab", "peftu.fitted.opening"):
        monkeypatch.setattr(f"{room}.load_base", load_tiny)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("method", METHODS)
def test_what_is_opened_in_other_numbers_says_how_far_its_scores_are(method: str, tmp_path: Path) -> None:
    fitted, _ = fit_tiny(method, "llama", hardware=HALF)
    folder = fitted.save(tmp_path / "kept")
    same, other = load(folder), load(folder, Lab(hardware=CPU))
    base = str(fitted.job.base)
    assert (same.lab.base(base).dtype, other.lab.base(base).dtype) == (torch.bfloat16, torch.float32)
    assert same.remarks == []
    (said,) = other.remarks
    start = f"{fitted.label}: fitted on cpu in bfloat16, opened on cpu in float32: scores differ by "
    assert said.startswith(start)
    assert 0 < float(said.removeprefix(start).split()[0]) < APART
    again = load(other.save(tmp_path / "again"))  # it is as it was fitted, wherever it has been since
    assert again.lab.base(base).dtype == torch.bfloat16
    assert again.remarks == []


@pytest.mark.usefixtures("tiny")
def test_what_is_kept_of_how_a_module_reads_goes_with_it(tmp_path: Path) -> None:
    fitted, problem = fit_tiny("lora[rank=2]", "llama", hardware=HALF)
    folder = fitted.save(tmp_path / "kept")

    def kept() -> dict[str, Any]:
        about = (folder / ABOUT).read_text()
        assert not any(text.text in about for text in problem.texts)
        return json.loads(about)["base"]["readings"]  # type: ignore[no-any-return]

    before = kept()
    assert set(map(len, before.values())) == {1 + len(problem.card.labels)}
    load(folder, Lab(hardware=CPU)).forget(problem.users[0])
    after = kept()
    assert len(after) == len(before) - 1
    assert after.items() <= before.items()
    for user in problem.users[1:]:
        load(folder, with_base=False).forget(user)
    assert kept() == {}
    (said,) = load(folder, Lab(hardware=CPU)).remarks
    assert said.endswith("scores differ, it was not kept by how much")


@pytest.mark.usefixtures("tiny")
def test_a_guard_around_methods_of_two_machines_reads_both_in_one_way_and_says_so(tmp_path: Path) -> None:
    inner, fallback = (fit_tiny(method, "llama", hardware=on)[0] for method, on in (("lora", CPU), ("global", HALF)))
    guard = GuardedFitted(inner.job, inner.task, 0, inner.lab, inner.prompt, inner, fallback, inner.users)
    opened = load(guard.save(tmp_path / "kept"))
    (said,) = opened.remarks
    assert said.startswith("global@llama: fitted on cpu in bfloat16, opened on cpu in float32")


@pytest.mark.usefixtures("tiny")
def test_where_a_card_lacks_the_dtype_of_the_fit_it_is_opened_in_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fit_tiny("lora[rank=2]", "llama", hardware=HALF)[0].save(tmp_path / "kept")
    monkeypatch.setattr("peftu.fitted.opening.dtypes_of", lambda _: ("float32", "float16"))
    (said,) = load(folder).remarks
    assert "fitted on cpu in bfloat16, opened on cpu in float32" in said
