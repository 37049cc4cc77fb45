"""Every fitted method is asked about any text, takes in and forgets users, and comes back from a folder."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from peftu.data.problem import Text
from peftu.errors import PeftuError
from peftu.fitted import folder as folder_module
from peftu.fitted.folder import load
from peftu.fitted.guarded import GuardedFitted
from peftu.methods.method import MethodCard, methods
from peftu.methods.reference import UserMajority
from peftu.store import AdapterStore
from peftu.testing import load_tiny
from peftu.testing.fitted import CLOSE, check_fitted, fit_tiny

torch.set_num_threads(1)

ASKED = {
    "full": ["full[max_users=9]"],
    "retrieval": ["retrieval", "retrieval[by=dense]"],
    "profile": ["profile[tokens=8]"],
    "lora": ["lora[rank=2]", "lora[rank=2,warm_start=global]"],
}


SLOW = pytest.mark.slow
AGAIN = (
    "adapter-houlsby",
    "adapter-pfeiffer",
    "bitfit",
    "vera",
    "alora",
    "ia3",
    "prompt-tuning",
    "p-tuning",
    "retrieval[by=dense]",
    "history",
)  # as another of its kind


def asked() -> list[Any]:
    texts = [text for name in methods.names() for text in ASKED.get(name, [name])]
    return [pytest.param(text, marks=SLOW) if text in AGAIN else text for text in texts]


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, *given: Any) -> Any:
        base = load_tiny("bert" if name == "all-minilm-l6-v2" else name, *given)
        base.name = name
        return base

    for room in ("peftu.lab.lab", "peftu.fitted.opening"):
        monkeypatch.setattr(f"{room}.load_base", load)


@pytest.mark.parametrize("method", asked())
def test_a_fitted_method_keeps_every_promise(method: str) -> None:
    check_fitted(method, "llama")


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        *(("multi", method) for method in ("mixed-head", "lora")),
        *(("ordinal", method) for method in ("user-majority", "few-shot", "user-embedding")),
        *(pytest.param("ordinal", method, marks=SLOW) for method in ("mixed-head", "lora")),
        *(pytest.param("multi", method, marks=SLOW) for method in ("user-majority", "few-shot", "user-embedding")),
    ],
)
def test_whatever_the_kind_of_answer(method: str, kind: Any) -> None:
    check_fitted(method, "llama", kind)


@pytest.mark.parametrize(
    "method",
    ["lora", "few-shot", *(pytest.param(name, marks=SLOW) for name in ("zero-shot", "user-embedding", "global"))],
)
def test_free_answers_too(method: str) -> None:
    check_fitted(method, "llama", "text")


def test_a_guard_is_fitted_around_two_others(tmp_path: Path) -> None:
    """It answers as the method itself for users that it keeps, as the fallback for others, and comes back so."""
    inner, problem = fit_tiny("lora[rank=2]", "llama")
    fallback, _ = fit_tiny("user-majority", "llama")
    users, texts = [user for user in problem.users for _ in range(3)], list(problem.texts[:3]) * len(problem.users)
    kept = problem.users[:2]
    guard = GuardedFitted(inner.job, inner.task, 0, inner.lab, inner.prompt, inner, fallback, kept)
    for place in (guard, load(guard.save(tmp_path / "guard"), inner.lab)):
        scores = place.scores(users, texts)
        for row, user in enumerate(users):
            expected = (inner if user in kept else fallback).scores([user], [texts[row]])[0]
            assert np.allclose(scores[row], expected, atol=1e-5)
    guarded = load(tmp_path / "guard", inner.lab)
    guarded.enrol("new", [(text, problem.card.labels[0]) for text in problem.texts[:9]])
    assert guarded.predict("new", texts[:3])["label"].to_list() == [problem.card.labels[0]] * 3
    guarded.forget(problem.users[0])
    again = load(tmp_path / "guard", inner.lab)
    assert again.users == tuple(sorted((*problem.users[1:], "new")))
    assert problem.users[0] not in (tmp_path / "guard" / "fitted.json").read_text()


class Bare:
    """Another package's reference method, or what it fitted: as much as answering takes."""

    card: ClassVar[MethodCard] = UserMajority.card.model_copy(update={"name": "bare"})
    notes: ClassVar[dict[str, Any]] = {}
    parameters_per_user = 0

    def fit(self, *_: Any) -> "Bare":
        return self

    def scores(self, users: Any, texts: Any) -> Any:
        return np.log(np.full((len(users), 2), 0.5))


class BareAndRestored(Bare):
    def restore(self, *_: Any) -> "BareAndRestored":
        return self


@pytest.mark.parametrize(
    ("method", "complaint"),
    [
        (Bare, "method bare: has no restore, .* add it"),
        (BareAndRestored, "method bare: what it fits has no enrol, forget, state — add them"),
    ],
)
def test_a_method_whose_fit_could_not_be_kept_is_refused_before_it_answers(
    method: type[Bare], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(methods, "_loaded", {**methods._loaded, "bare": method})
    with pytest.raises(PeftuError, match=complaint):
        fit_tiny("bare", "llama")


def test_a_fitted_on_another_base_is_refused(tmp_path: Path) -> None:
    fitted, _ = fit_tiny("lora[rank=2]", "llama")
    folder = fitted.save(tmp_path / "kept")
    about = json.loads((folder / "fitted.json").read_text())
    about["base"]["place"] = "gpt2"
    (folder / "fitted.json").write_text(json.dumps(about))
    with pytest.raises(PeftuError, match=r"base gpt2 has changed since training \(weights \w{8}… then, \w{8}… now\)"):
        load(folder)


def test_what_another_process_enrolled_is_not_lost(tmp_path: Path) -> None:
    fitted, problem = fit_tiny("user-majority", "llama")
    examples = [("a note", problem.card.labels[0])]
    folder = fitted.save(tmp_path / "kept")
    ours, theirs = load(folder), load(folder)
    theirs.enrol("theirs", examples)
    for change in (lambda: ours.enrol("ours", examples), lambda: ours.forget(problem.users[0])):
        with pytest.raises(PeftuError, match=r"another process has changed it .* open it again"):
            change()
    assert load(folder).users == tuple(sorted((*problem.users, "theirs")))
    theirs.save(folder)
    theirs.enrol("more", examples)
    assert {"theirs", "more"} < set(load(folder).users)


def test_many_may_enrol_at_once_and_read_meanwhile(tmp_path: Path) -> None:
    fitted, problem = fit_tiny("user-majority", "llama")
    folder = fitted.save(tmp_path / "kept")

    def enrolled(user: str) -> None:
        for _ in range(999):
            opened = load(folder)
            if user in opened.users:
                return
            with suppress(PeftuError):  # another was quicker
                opened.enrol(user, [("a note", problem.card.labels[0])])

    newcomers = [f"new-{number}" for number in range(12)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(enrolled, newcomers))
    assert load(folder).users == tuple(sorted((*problem.users, *newcomers)))
    assert len(list(folder.glob("*.safetensors"))) == 1


def test_a_state_that_is_replaced_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted, problem = fit_tiny("user-majority", "llama")
    folder = fitted.save(tmp_path / "kept")
    writer, read = load(folder), folder_module.load_file
    monkeypatch.setattr(folder_module, "load_file", lambda path: replaced() or read(path))

    def replaced() -> None:
        if "meanwhile" not in writer.users:
            writer.enrol("meanwhile", [("a note", problem.card.labels[0])])

    assert "meanwhile" in load(folder).users


def test_a_text_of_far_pairs_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs are scored a few at a time: those of a text together, and each answer is where its pair was."""
    fitted, problem = fit_tiny("lora[rank=2]", "llama")
    texts = [Text(f"new {number}") for number in (0, 1, 2, 3)] * 3
    users = [problem.users[place // 4] for place in range(12)]
    whole = fitted.scores(users, texts)
    chunks: list[list[Text]] = []
    read = fitted.lab.read

    def counted(name: str, prompt: Any, region: Any, items: Any) -> Any:
        chunks.append([text for text, _ in items])
        return read(name, prompt, region, items)

    monkeypatch.setattr("peftu.fitted.fitted.PAIRS", 6)
    monkeypatch.setattr(fitted.lab, "read", counted)
    np.testing.assert_allclose(fitted.scores(users, texts), whole, atol=CLOSE)
    assert [sorted(set(chunk)) for chunk in chunks] == [texts[:2], texts[2:4]]
    assert len(np.unique(whole, axis=0)) == 12


def test_the_keys_of_others_are_not_read_to_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a million users in the store, those of the pairs alone are looked up; a guard asks both its methods so."""
    inner, problem = fit_tiny("lora[rank=2]", "llama")
    fallback, _ = fit_tiny("user-majority", "llama")
    guard = GuardedFitted(inner.job, inner.task, 0, inner.lab, inner.prompt, inner, fallback, problem.users[:2])
    places = [load(fitted.save(tmp_path / fitted.kind), inner.lab) for fitted in (inner, guard)]
    texts = list(problem.texts[:2])
    expected = [fitted.scores(problem.users[:2], texts) for fitted in (inner, guard)]

    def refuse(*_: Any) -> list[str]:
        raise AssertionError("all keys are read")

    monkeypatch.setattr(AdapterStore, "keys", refuse)
    for fitted, scores in zip(places, expected, strict=True):
        np.testing.assert_allclose(fitted.scores(problem.users[:2], texts), scores, atol=CLOSE)
        assert fitted.knows(problem.users[3])
        assert not fitted.knows("nobody")
        assert fitted.unknown(["nobody", problem.users[0], "neither"]) == {"nobody", "neither"}
        with pytest.raises(PeftuError, match="2 of 3 users have no module here"):
            fitted.scores(["nobody", problem.users[0], "neither"], [*texts, texts[0]])
