"""Prompting: whose items are shown, which, in which order, and that the base reads what was composed."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from peftu.base.model import FrozenBase
from peftu.base.prompt import Prompt
from peftu.base.region import Region
from peftu.base.writing import write
from peftu.cells.fits import Fits
from peftu.config import MethodSpec, RunSpec, SplitSpec
from peftu.data.problem import PARTS, Floats, Text
from peftu.data.splits import make_problem, make_split
from peftu.data.synthetic import synthetic_table
from peftu.errors import PeftuError
from peftu.experiment import method_list
from peftu.fitted.prompted import fitting, past_of
from peftu.generate import generate
from peftu.lab.progress import Silent
from peftu.methods.composing import Answered, Composed, Past
from peftu.methods.profile import Profile, shares
from peftu.methods.prompting import FewShot, Retrieval, balanced
from peftu.methods.similar import Bm25
from peftu.plan import Job, plan
from peftu.testing import tiny_base, tiny_model, tiny_prompt

torch.set_num_threads(1)

WORDS = ("no", "yes")
Shop = Callable[..., Fits]


def item(text: str, *labels: int) -> Answered:
    return Answered(Text(text), ", ".join(WORDS[label] for label in labels), labels)


class Spy:
    """Tools that note what they are asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def embed(self, base: str, texts: Sequence[Text]) -> Floats:
        """Returns letter counts at unit length."""
        counts = np.array([[text.text.count(chr(c)) for c in range(97, 123)] for text in texts], dtype=np.float32)
        return np.asarray(counts / np.linalg.norm(counts, axis=1, keepdims=True))

    def write(self, instruction: str, text: str, tokens: int) -> str:
        self.asked.append(text)
        return f"says {text.count('yes')} yes"


def past(*items: tuple[Answered, ...], words: tuple[str, ...] = WORDS) -> Past:
    return Past(tuple(f"user-{number}" for number in range(len(items))), items, words)


MANY = tuple(item(f"text {n}", int(n % 5 == 0)) for n in range(20))  # 4 yes, 16 no


# --- which items -----------------------------------------------------------------------------------------------------


def test_labels_take_turns_while_there_are_any() -> None:
    order = balanced(MANY, 2, seed=3, user="u")
    assert sorted(order) == sorted(MANY)
    labels = [item.labels[0] for item in order]
    assert all(first != second for first, second in pairwise(labels[:8]))
    assert labels[8:] == [0] * 12


def test_the_order_depends_on_seed_and_user_alone() -> None:
    assert balanced(MANY, 2, 0, "u") == balanced(list(MANY), 2, 0, "u")
    assert balanced(MANY, 2, 0, "u") != balanced(MANY, 2, 1, "u")
    assert balanced(MANY, 2, 0, "u") != balanced(MANY, 2, 0, "v")


@pytest.mark.parametrize("seed", range(6))
def test_items_of_several_labels_stand_for_the_rarest_so_far(seed: int) -> None:
    items = [item("a", 0), item("b", 0), item("c", 0, 1)]
    assert {label for i in balanced(items, 2, seed, "u")[:2] for label in i.labels} == {0, 1}


@pytest.mark.parametrize("method", [FewShot(k=5), Retrieval(k=5), Retrieval(k=5, by="dense")])
def test_an_item_is_never_shown_for_itself_and_only_the_user_s_own_are(method: FewShot | Retrieval) -> None:
    others = tuple(item(f"else {n}", 1) for n in range(9))
    compose = method.composer(past(MANY, others), Spy(), 0)
    for own, theirs in ((0, MANY), (1, others)):
        for judged in (MANY[0], others[0], item("new text", 0)):
            shown = compose(own, judged.text).shown
            assert len(shown) == 5 == len(set(shown))
            assert set(shown) <= set(theirs) - {judged}


def test_without_labels_items_are_drawn_all_the_same() -> None:
    free = tuple(Answered(Text(f"q{n}"), f"a{n}") for n in range(6))
    assert len(FewShot(k=4).composer(past(free, words=()), Spy(), 0)(0, Text("q0")).shown) == 4


@pytest.mark.parametrize("by", ["bm25", "dense"])
def test_the_likest_item_stands_last(by: Any) -> None:
    items = (item("moss kites", 0), item("cats cats dogs", 1), item("rain", 0), item("cats", 1))
    shown = Retrieval(k=3, by=by).composer(past(items), Spy(), 0)(0, Text("cats and rain and cats")).shown
    assert {i.text.text for i in shown[-3:]} >= {"cats", "rain"} if by == "bm25" else {"cats"}
    assert shown[-1].text.text in ("cats", "rain", "cats cats dogs")


def test_bm25_is_bm25() -> None:
    """Against Lucene's formula written out."""
    corpus = [["cats", "rain"], ["cats", "cats", "soup", "moss"], ["rain"], ["tea", "tea", "tea"]]
    texts = [Text(" ".join(words)) for words in corpus]
    mean = sum(map(len, corpus)) / len(corpus)

    def expected(words: list[str], asked: list[str]) -> float:
        total = 0.0
        for word in asked:
            df = sum(word in other for other in corpus)
            idf = np.log(1 + (len(corpus) - df + 0.5) / (df + 0.5))
            tf = words.count(word)
            total += idf * tf / (tf + 1.5 * (1 - 0.75 + 0.75 * len(words) / mean))
        return total

    found = Bm25(texts).likeness(Text("Rain, cats; unknown"))
    assert np.allclose(found, [expected(words, ["rain", "cats"]) for words in corpus], atol=1e-5)
    assert not Bm25(texts).likeness(Text("unknown")).any()
    assert not Bm25([Text("!!"), Text("??")]).likeness(Text("cats")).any()


def test_the_profile_is_told_from_train_items_once_a_user() -> None:
    spy = Spy()
    compose = Profile(k=6).composer(past(MANY, ()), spy, 0)
    assert compose(0, Text("a")) == compose(0, Text("b"))
    assert compose(0, Text("a")).profile.endswith("says 3 yes")
    assert compose(1, Text("a")) == Composed()
    assert len(spy.asked) == 1


def test_shares_are_said_in_words() -> None:
    assert shares(MANY, WORDS) == "of 20 texts before, this person answered no to 80%, yes to 20%."
    with pytest.raises(PeftuError, match=r"free text .* by=base"):
        Profile(by="shares").composer(past(MANY, words=()), Spy(), 0)


# --- what the base reads ---------------------------------------------------------------------------------------------

SHOWN = (("rain", "yes"), ("pea soup", "no"))


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
def test_demonstrations_are_read_as_if_they_stood_in_the_text(family: str) -> None:
    """The prompt with demonstrations is the one plain text that spells them out."""
    base = tiny_base(family)
    region = Region(depth=1, span="answer")
    texts = [Text("cat"), Text("a train", "So?")]
    prompt = replace(tiny_prompt(), shown=SHOWN)
    spelt = "rain\nAnswer: yes\n\npea soup\nAnswer: no\n\n"
    plain = [Text(spelt + Prompt.body(text)) for text in texts]
    found, expected = (
        base.readout(base.prefill(p, t, region), torch.arange(2)) for p, t in ((prompt, texts), (tiny_prompt(), plain))
    )
    assert torch.allclose(found, expected, atol=1e-4)
    zero = base.readout(base.prefill(tiny_prompt(), texts, region), torch.arange(2))
    assert not torch.allclose(found, zero, atol=1e-2)


@pytest.mark.parametrize("system", [True, False])
def test_in_a_chat_demonstrations_are_turns(system: bool) -> None:
    base = tiny_base("llama")
    refuse = "" if system else "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    turns = "{% for m in messages %}[{{ m.role[0] }}]{{ m.content }};{% endfor %}"
    base.family.tokenizer.chat_template = f"{refuse}{turns}{{% if add_generation_prompt %}}[a]{{% endif %}}"  # type: ignore[attr-defined]
    (ids,) = base.family.reader.read(replace(tiny_prompt(), shown=SHOWN), [Text("cat")]).lists
    begin = "[s]Like it?;[u]rain" if system else "[u]Like it?\n\nrain"
    read = base.family.tokenizer.decode(ids)  # type: ignore[attr-defined]
    assert read == f"{begin};[a]yes;[u]pea soup;[a]no;[u]cat;[a]"


def test_the_least_valuable_items_go_until_the_prompt_fits() -> None:
    base = tiny_base("gpt2")  # 512 places, a token a character
    items = tuple(item(f"{n}" + "x" * 49, 0) for n in range(9))
    prompt, dropped = fitting(base, tiny_prompt(max_tokens=60), Composed(shown=items))
    assert 0 < dropped < 9
    assert [body[0] for body, _ in prompt.shown] == [str(n) for n in range(dropped, 9)]
    base.prefill(prompt, [Text("y" * 60)], Region(1, "answer"))
    one_more = replace(prompt, shown=((items[0].text.text, "no"), *prompt.shown))
    assert [base.cuts(shown, [Text("y" * 60)]).judged for shown in (prompt, one_more)] == [0, 1]


def test_shown_texts_are_cut_like_judged_ones() -> None:
    prompt, _ = fitting(tiny_base("llama"), tiny_prompt(max_tokens=5), Composed("A bore.", (item("y" * 9, 1),)))
    assert prompt.shown == (("yyyyy", "yes"),)
    assert prompt.instruction == "Like it?\n\nA bore."


# --- in a run --------------------------------------------------------------------------------------------------------


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Shop:
    def load(name: str, *_: Any) -> FrozenBase:
        base = tiny_base("bert" if name == "all-minilm-l6-v2" else name)
        base.name = name
        return base

    monkeypatch.setattr("peftu.lab.lab.load_base", load)

    def make(kind: Any = "single", spec: SplitSpec | None = None) -> Fits:
        table = synthetic_table(users=4, items=12, kind=kind)
        problem = make_problem(table, table.card, make_split(table, spec or SplitSpec(), 0))
        return Fits(table.card, {0: problem}, 64, Silent())

    return make


def jobs_of(methods: str, base: str = "llama") -> list[Job]:
    asked = tuple(MethodSpec.parse(part) for part in method_list(methods))
    return plan(RunSpec(task="any", methods=asked, base=base))


@pytest.mark.parametrize("family", ["llama", "t5"])
@pytest.mark.parametrize("kind", ["single", "multi"])
def test_a_run_reads_each_row_s_own_prompt(shop: Shop, family: str, kind: str) -> None:
    fits = shop(kind)
    problem, base = fits.problems[0], fits.lab.base(family)
    for job in jobs_of("few-shot[k=2],retrieval[k=2],retrieval[k=2,by=dense]", family):
        cell = fits.run(job, 0)
        assert cell.rows.tolist() == np.flatnonzero(problem.part > 0).tolist()
        assert cell.notes["tokens_per_answer"] > 0
        if job.method.card.name == "few-shot":
            compose = job.method.composer(past_of(problem), Spy(), 0)
            for place, row in list(enumerate(cell.rows))[:4]:
                text = problem.texts[problem.text[row]]
                prompt, _ = fitting(base, fits.prompt, compose(int(problem.user[row]), text))
                alone = base.readout(base.prefill(prompt, [text], Region(3, "answer")), torch.tensor([0]))
                assert np.allclose(cell.scores[place], alone[0], atol=1e-4)


@pytest.mark.parametrize("family", ["llama", pytest.param("t5", marks=pytest.mark.slow)])
def test_free_answers_are_written_to_each_row_s_own_prompt(shop: Shop, family: str) -> None:
    """Each test row has the answer that the base writes to its prompt alone; validation rows have none."""
    fits = shop("text")
    fits.writes = True
    problem, base = fits.problems[0], fits.lab.base(family)
    for job in jobs_of("few-shot[k=2],retrieval[k=2]", family):
        cell = fits.run(job, 0)
        assert sorted(cell.written) == np.flatnonzero(problem.part == PARTS.index("test")).tolist()
        compose = job.method.composer(past_of(problem), Spy(), 0)
        for row in sorted(cell.written)[:4]:
            text = problem.texts[problem.text[row]]
            prompt, _ = fitting(base, fits.prompt, compose(int(problem.user[row]), text))
            assert [cell.written[row]] == generate(base, prompt, [text], base.region(None))
    assert len(set(cell.written.values())) > 1


def test_users_without_train_rows_are_read_zero_shot_and_counted(shop: Shop) -> None:
    fits = shop(spec=SplitSpec(regime="unseen-user", k=0, unseen=0.5))
    jobs = jobs_of("zero-shot,few-shot,retrieval,profile[by=shares]")
    zero, *prompted = [fits.run(job, 0) for job in jobs]
    unseen = np.isin(fits.problems[0].part[zero.rows], 2)
    for cell in prompted:
        assert cell.notes["users_without_train_rows"] == 2
        assert np.allclose(cell.scores[unseen], zero.scores[unseen], atol=1e-5)
        assert not np.allclose(cell.scores[~unseen], zero.scores[~unseen], atol=1e-3)


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
def test_the_base_writes_a_profile(shop: Shop, family: str) -> None:
    fits = shop()
    (job,) = jobs_of("profile[k=2,tokens=4]", family)
    first, second = fits.run(job, 0), shop().run(job, 0)
    assert np.array_equal(first.scores, second.scores)
    assert 1 < first.notes["prompts"] <= 4


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
def test_what_a_base_writes_is_the_likeliest_token_each_time(family: str) -> None:
    """Against the hub model as it comes, run anew for every token."""
    model, tokenizer = tiny_model(family)
    read = tokenizer("Say it.\n\nrain")["input_ids"] if family == "t5" else None
    ids = tokenizer("<s>Say it.\n\nrain\nAnswer:", add_special_tokens=False)["input_ids"]
    written = [0] if read else []
    for _ in range(5):
        if read:
            logits = model(input_ids=torch.tensor([read]), decoder_input_ids=torch.tensor([written])).logits
        else:
            logits = model(torch.tensor([ids + written])).logits
        written.append(int(logits[0, -1].argmax()))
        if written[-1] == tokenizer.eos_token_id:
            break
    expected = " ".join(tokenizer.decode(written, skip_special_tokens=True).split())
    assert write(tiny_base(family), "Say it.", "rain", 5) == expected


def test_a_base_is_not_asked_to_read_more_than_it_can() -> None:
    with pytest.raises(PeftuError, match="reads 512 tokens at most"):
        write(tiny_base("gpt2"), "Say it.", "x" * 500, 9)


def test_an_encoder_reads_no_prompt(shop: Shop) -> None:
    (job,) = jobs_of("few-shot", "bert")
    with pytest.raises(PeftuError, match="base bert: an encoder reads no prompt"):
        shop().run(job, 0)
