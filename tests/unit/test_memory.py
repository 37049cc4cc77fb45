"""Where memory runs out, work is done in halves and comes to the same."""

import gc
import weakref
from collections.abc import Callable

import numpy as np
import psutil
import pytest
import torch

from peftu import predict
from peftu import train as training
from peftu.bank import Layout
from peftu.base.families.family import Context
from peftu.base.model import FrozenBase
from peftu.config import RegionSpec, TrainSpec
from peftu.errors import PeftuError
from peftu.memory import _glibc, give_back, keep, out_of_memory, tried
from peftu.methods.lora import Lora
from peftu.predict import score
from peftu.testing import tiny_base, tiny_prompt, tiny_texts, tiny_units
from peftu.train import Trained, train
from peftu.train_rows import Unit

torch.set_num_threads(1)

TEXTS = 16
SPEC = TrainSpec(epochs=2, lr=3e-3, batch=4)
Setting = tuple[FrozenBase, Context, Layout]


@pytest.fixture
def setting() -> Setting:
    base = tiny_base("llama")
    region = base.region(RegionSpec(depth=1, span="answer"))
    return base, base.prefill(tiny_prompt(), tiny_texts(TEXTS), region), Layout(Lora(rank=2), base.sites(region, 2))


def starve(monkeypatch: pytest.MonkeyPatch, most: int, after: int = 0) -> list[int]:
    """Lets reads of more modules than ``most`` run out of memory, from call ``after`` on; returns what is read."""
    readout, seen = FrozenBase.readout, []

    def failing(base: FrozenBase, context: Context, text: torch.Tensor, binding: object = None) -> torch.Tensor:
        groups = getattr(binding, "groups", 1)
        if groups > most and len(seen) >= after:
            torch.empty(1 << 50)
        seen.append(groups)
        return readout(base, context, text, binding)  # type: ignore[arg-type]

    monkeypatch.setattr(FrozenBase, "readout", failing)
    return seen


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "allocate", [lambda: torch.empty(1 << 50), lambda: np.empty(1 << 50), lambda: bytearray(1 << 60)]
)
def test_what_does_not_fit_is_known_by_its_error(allocate: Callable[[], object]) -> None:
    with pytest.raises((RuntimeError, MemoryError)) as raised:
        allocate()
    assert out_of_memory(raised.value)
    assert tried(allocate) is None


def test_so_is_an_accelerator_s() -> None:
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(RuntimeError, match="shape"):
        tried(lambda: torch.empty(2, 3) @ torch.empty(2, 3))


def test_nothing_is_held_of_work_that_failed() -> None:
    kept: list[weakref.ref[torch.Tensor]] = []

    def work() -> None:
        kept.append(weakref.ref(torch.empty(3)))
        held = torch.empty(3)
        kept.append(weakref.ref(held))
        torch.empty(1 << 50)

    assert tried(work) is None
    assert [ref() for ref in kept] == [None, None]


# --- training --------------------------------------------------------------------------------------------------------


def same(one: Trained, other: Trained) -> bool:
    return torch.equal(one.rows, other.rows) and one.logs == other.logs


@pytest.mark.parametrize("after", [0, 3])
def test_a_cohort_begins_again_with_half_its_users(
    setting: Setting, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = tiny_units((5, 6, 7, 8, 4, 9, 3, 6), TEXTS, 2)
    monkeypatch.setattr(training, "cohort_size", lambda *_: 2)
    expected, told = [], []
    in_twos = train(*setting, units, SPEC, seed=0, progress=expected.append)
    monkeypatch.setattr(training, "cohort_size", lambda *_: 8)
    starve(monkeypatch, 2, after)
    said: list[str] = []
    assert same(train(*setting, units, SPEC, seed=0, progress=told.append, say=said.append), in_twos)
    assert said == [
        "training: out of memory with 8 users at once — going on with 4",
        "training: out of memory with 4 users at once — going on with 2",
    ]
    assert sum(told) == sum(expected)


def test_users_of_finished_cohorts_are_kept(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    units = tiny_units((4,) * 8, TEXTS, 2)
    monkeypatch.setattr(training, "cohort_size", lambda *_: 4)
    whole = train(*setting, units, SPEC, seed=0)
    trained: list[int] = []
    init = training._Cohort.__init__

    def counted(
        loop: object, base: FrozenBase, context: Context, layout: Layout, cohort: list[Unit], *rest: object
    ) -> None:
        trained.append(len(cohort))
        init(loop, base, context, layout, cohort, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(training._Cohort, "__init__", counted)
    starve(monkeypatch, 2, after=1 + 2 * SPEC.epochs)  # a cohort's reads: a start, and a step and its validation each
    halved = train(*setting, units, SPEC, seed=0)
    assert trained == [4, 4, 2, 2]
    assert torch.allclose(halved.rows, whole.rows, atol=1e-6)
    assert [log.steps for log in halved.logs] == [log.steps for log in whole.logs]


def test_with_one_user_left_it_says_what_to_lower(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    starve(monkeypatch, 0)
    with pytest.raises(PeftuError, match=r"one user at a time — lower train\.batch"):
        train(*setting, tiny_units((4, 5, 6), TEXTS, 2), SPEC, seed=0)


def test_two_cohorts_are_never_held_at_once(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "cohort_size", lambda *_: 2)
    init, made, alive = training._Cohort.__init__, [], []

    def counted(loop: training._Cohort, *given: object) -> None:
        gc.collect()
        alive.append(sum(ref() is not None for ref in made))
        made.append(weakref.ref(loop))
        init(loop, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(training._Cohort, "__init__", counted)
    train(*setting, tiny_units((4, 5, 6, 7, 8), TEXTS, 2), SPEC, seed=0)
    assert alive == [0, 0, 0]


# --- reading ---------------------------------------------------------------------------------------------------------


def read(setting: Setting, say: Callable[[str], None] = lambda _: None) -> np.ndarray:
    """Returns what 8 modules make of 1 to 8 texts each."""
    layout = setting[2]
    units = np.repeat(np.arange(8), np.arange(1, 9))
    texts = np.concatenate([np.arange(count) for count in range(1, 9)])
    rows = layout.fresh([str(number) for number in range(8)], seed=0) + 0.1
    return score(*setting[:2], texts, layout, rows, units, say=say)


def test_reads_go_on_in_halves(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read(setting)
    seen, said = starve(monkeypatch, 2), []
    assert np.allclose(read(setting, said.append), whole, atol=1e-6)
    assert max(seen) == 2
    assert said[0].startswith("reading: out of memory with 64 texts at once")


def test_one_module_s_texts_are_halved_too(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, readout = read(setting), FrozenBase.readout

    def failing(base: FrozenBase, context: Context, text: torch.Tensor, binding: object = None) -> torch.Tensor:
        if len(text) > 1:
            raise MemoryError
        return readout(base, context, text, binding)  # type: ignore[arg-type]

    monkeypatch.setattr(FrozenBase, "readout", failing)
    assert np.allclose(read(setting), whole, atol=1e-6)


def test_with_one_text_left_it_says_what_to_lower(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    starve(monkeypatch, 0)
    with pytest.raises(PeftuError, match="one text at a time — lower max_tokens"):
        read(setting)


def test_wide_modules_are_read_fewer_at_a_time(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read(setting)
    monkeypatch.setattr(predict, "module_rows", lambda _: 3)
    seen = starve(monkeypatch, 99)
    assert np.allclose(read(setting), whole, atol=1e-6)
    assert max(seen) == 3


@pytest.mark.skipif(_glibc("malloc_trim") is None, reason="this C library keeps nothing, or cannot be told")
def test_what_was_freed_in_pieces_is_given_back() -> None:
    pieces = [torch.ones(25_000) for _ in range(2000)]  # 100 kB each: too small for a mapping of its own
    kept = pieces[::100]
    process = psutil.Process()
    before = process.memory_info().rss
    del pieces
    give_back()
    assert before - process.memory_info().rss > 100e6
    assert all(bool((piece == 1).all()) for piece in kept)


@pytest.mark.skipif(_glibc("mallopt") is None, reason="this C library decides by itself")
def test_what_a_step_freed_is_kept_for_the_next_until_it_is_given_back() -> None:
    keep()
    resident = psutil.Process().memory_info
    give_back()
    states = [torch.ones(5 << 20) for _ in range(5)]  # 20 MiB each
    before = resident().rss
    del states
    assert before - resident().rss < 50e6
    give_back()
    assert before - resident().rss > 90e6
