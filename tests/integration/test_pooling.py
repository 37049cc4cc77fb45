"""Sentence encoders: vectors are made as the folder's own files say, which transformers alone is asked to check."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import body_of
from torch import Tensor

from peftu.bank import Bound, Layout
from peftu.base.cards import bases, weights_at_hand
from peftu.base.model import FrozenBase, load_base
from peftu.base.pooling import SentenceConfig, read_sentence_config
from peftu.base.prompt import Prompt
from peftu.base.sites import attached
from peftu.config import RegionSpec
from peftu.data.problem import Text
from peftu.errors import PeftuError
from peftu.methods.lora import Lora
from peftu.methods.prefix_tuning import PrefixTuning
from peftu.methods.prompt_tuning import PromptTuning
from peftu.testing import CPU, tiny_base, tiny_model, tiny_prompt, tiny_texts

torch.set_num_threads(1)

MEAN = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True, "word_embedding_dimension": 32}
CLS = {**MEAN, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
MAX = {**MEAN, "pooling_mode_mean_tokens": False, "pooling_mode_max_tokens": True}
POOL: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda h_td: h_td.mean(0),
    "cls": lambda h_td: h_td[0],
    "max": lambda h_td: h_td.max(0).values,
    "sqrt": lambda h_td: h_td.sum(0) / math.sqrt(len(h_td)),
}
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model, tokenizer = tiny_model("bert")
    model.save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def put(folder: Path, pooling: Any = MEAN, modules: Any = MODULES[:2], **files: Any) -> Path:
    """Writes sentence-transformers' files; ``files`` are others by name, without their ending."""
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    for name, values in {"modules": modules, **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(values))
    return folder


def load(folder: Path) -> FrozenBase:
    return load_base(str(folder), CPU)


def expected(pool: str, texts: list[str], most: int = 999, model: Any = None) -> Tensor:
    """Returns [texts, 32] unit vectors by transformers alone, one text at a time."""
    plain, tokenizer = tiny_model("bert")
    vectors = []
    for text in texts:
        ids = tokenizer([text], truncation=True, max_length=most, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            vectors.append(POOL[pool]((model or plain)(input_ids=ids).last_hidden_state[0]))
    return torch.nn.functional.normalize(torch.stack(vectors), dim=1)


@pytest.mark.parametrize(
    ("pooling", "pool"),
    [
        (MEAN, "mean"),
        (CLS, "cls"),
        (MAX, "max"),
        ({**MAX, "pooling_mode_max_tokens": False, "pooling_mode_mean_sqrt_len_tokens": True}, "sqrt"),
        ({"embedding_dimension": 32, "pooling_mode": "cls", "include_prompt": True}, "cls"),
        ({"pooling_mode": ["max"]}, "max"),
    ],
)
@pytest.mark.parametrize("modules", [MODULES[:2], MODULES])
def test_tokens_are_pooled_as_the_folder_says(folder: Path, pooling: Any, pool: str, modules: Any) -> None:
    base, texts = load(put(folder, pooling, modules)), tiny_texts(5)
    vectors = torch.from_numpy(base.embed(texts))
    assert torch.allclose(vectors, expected(pool, [body_of(text) for text in texts]), atol=1e-5)
    prompt = tiny_prompt(("no", "nor", "yes"))
    labels = expected(pool, [f"{prompt.instruction} {word}" for word in prompt.words])
    for depth in (1, 2, 3):
        context = base.prefill(prompt, texts, base.region(RegionSpec(depth=depth)))
        scores = base.readout(context, torch.tensor([4, 0, 1, 2, 3]))
        assert torch.allclose(scores, (10 * vectors @ labels.T).log_softmax(1)[[4, 0, 1, 2, 3]], atol=1e-4)


@pytest.mark.parametrize("pool", ["mean", "cls", "max"])
@pytest.mark.parametrize("method", [Lora(rank=2, targets=["v"]), PromptTuning(tokens=3), PrefixTuning(tokens=2)])
def test_virtual_tokens_and_neighbours_are_never_pooled(pool: Any, method: Any) -> None:
    """Two users read together read as alone, and their gradients are there: the first token is the text's own."""
    base = tiny_base("bert")
    base.family.sentence = SentenceConfig(pool)  # type: ignore[attr-defined]
    region, rows = base.region(RegionSpec(depth=3)), torch.tensor([2, 0, 1, 2, 1, 0])
    context = base.prefill(tiny_prompt(), tiny_texts(3), region)
    layout = Layout(method, base.sites(region, 2))
    values = torch.randn(2, layout.width, generator=torch.Generator().manual_seed(0)).requires_grad_()
    together = base.readout(context, rows, Bound(layout, layout.views(values), 2))
    for user, part in enumerate((rows[:3], rows[3:])):
        for place, row in enumerate(part):
            alone = base.readout(context, row[None], Bound(layout, layout.views(values[[user]]), 1))
            assert torch.allclose(alone[0], together[3 * user + place], atol=1e-4)
    (gradient,) = torch.autograd.grad(together[:, 0].sum(), values)
    assert (gradient.abs().amax(1) > 0).all()


def test_prompt_tuning_s_first_own_token_is_the_one_pooled() -> None:
    """Against transformers with the virtual states put in front by hand."""
    model, tokenizer = tiny_model("bert")
    base, text = tiny_base("bert"), tiny_texts(1)[0]
    base.family.sentence = SentenceConfig("cls")  # type: ignore[attr-defined]
    region = base.region(RegionSpec())
    context = base.prefill(tiny_prompt(), [text], region)
    layout = Layout(PromptTuning(tokens=3), base.sites(region, 2))
    row = torch.randn(1, layout.width, generator=torch.Generator().manual_seed(0))
    views = layout.views(row)
    own = model.embeddings.word_embeddings(tokenizer([text.text], return_tensors="pt")["input_ids"])
    with torch.no_grad(), attached(base.family.model, Bound(layout, views, 1)) as attachment:
        states = model(inputs_embeds=torch.cat([views["tokens"]["states"], own], 1)).last_hidden_state[0]
        vector = base.family.hidden(context, 0, torch.tensor([0]), attachment)[0]
    assert torch.allclose(torch.nn.functional.normalize(states[3], dim=0) * math.sqrt(32), vector, atol=1e-4)


def test_limit_case_and_default_prompt_are_kept(folder: Path) -> None:
    limits = {"max_seq_length": 20, "do_lower_case": True}
    prompts = {"prompts": {"query": "Q: ", "other": "O: "}, "default_prompt_name": "query"}
    base = load(put(folder, CLS, sentence_bert_config=limits, config_sentence_transformers=prompts))
    texts = [Text("ABC"), Text("A Longer Text Than Twenty Tokens")]
    vectors = torch.from_numpy(base.embed(texts))
    assert torch.allclose(vectors, expected("cls", ["q: abc", "q: a longer text than twenty tokens"], 20), atol=1e-5)
    assert base.prefill(tiny_prompt(), texts, base.region(None)).cut == 1


def test_pooling_is_part_of_the_base_s_identity(folder: Path) -> None:
    plain = load(folder)
    assert plain.sentence == SentenceConfig()
    assert load(put(folder)).fingerprint == plain.fingerprint
    other = load(put(folder, CLS))
    assert other.fingerprint != plain.fingerprint
    assert other.former_fingerprint != plain.former_fingerprint
    assert tiny_base("llama").sentence is None


DENSE = {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}
BAG = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.BoW"}
DOT = {"similarity_fn_name": "dot"}
QUERY = {"prompts": {"query": "Q: "}, "default_prompt_name": "query"}
ODD: dict[str, tuple[dict[str, Any], str]] = {
    "two pools": ({"pooling": {**CLS, "pooling_mode_mean_tokens": True}}, r"cls_token \+ mean_tokens"),
    "the last token": ({"pooling": {"pooling_mode_lasttoken": True}}, "'lasttoken'"),
    "a weighted mean": ({"pooling": {"pooling_mode": "weightedmean"}}, "'weightedmean'"),
    "no pool": ({"pooling": {"word_embedding_dimension": 32}}, "'none'"),
    "a list for a pool": ({"pooling": []}, "no JSON object"),
    "a dense layer": ({"modules": [*MODULES[:2], DENSE]}, r"Transformer \+ Pooling \+ Dense"),
    "a bag of words": ({"modules": [BAG]}, "asks for BoW"),
    "no modules": ({"modules": []}, "asks for nothing"),
    "modules that are none": ({"modules": {"a": 1}}, "not a list of modules"),
    "a model elsewhere": ({"modules": [{**MODULES[0], "path": "0_Transformer"}, MODULES[1]]}, "0_Transformer"),
    "pooling outside": ({"modules": [MODULES[0], {**MODULES[1], "path": "../1_Pooling"}]}, r"\.\./1_Pooling"),
    "pooling missing": ({"modules": [MODULES[0], {**MODULES[1], "path": "9_Pooling"}]}, "9_Pooling, which has no"),
    "lengths that count": ({"config_sentence_transformers": DOT}, "'dot'"),
    "a prompt left out": (
        {"pooling": {**CLS, "include_prompt": False}, "config_sentence_transformers": QUERY},
        "leaves the prompt 'Q: ' out",
    ),
    "an unknown prompt": ({"config_sentence_transformers": {"default_prompt_name": "q", "prompts": {}}}, "'q'"),
    "a limit in words": ({"sentence_bert_config": {"max_seq_length": "long"}}, "max_seq_length long"),
    "a limit of none": ({"sentence_bert_config": {"max_seq_length": 0}}, "max_seq_length 0"),
}


@pytest.mark.parametrize("case", ODD)
def test_what_peftu_does_not_make_is_refused(folder: Path, case: str) -> None:
    files, words = ODD[case]
    put(folder, **files)
    with pytest.raises(PeftuError, match=words) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert " — " in str(caught.value)


def test_lengths_that_are_all_one_compare_alike_by_any_measure(folder: Path) -> None:
    put(folder, modules=MODULES, config_sentence_transformers=DOT)
    assert read_sentence_config(folder) == SentenceConfig()


def test_labels_that_an_encoder_cannot_tell_apart_are_refused(folder: Path) -> None:
    lower = {"max_seq_length": 99, "do_lower_case": True}
    base = load(put(folder, sentence_bert_config=lower))
    with pytest.raises(PeftuError, match="two labels have the same tokens"):
        base.prefill(tiny_prompt(("Yes", "yes")), tiny_texts(2), base.region(None))
    assert base.prefill(tiny_prompt(("yes", "yes!")), tiny_texts(2), base.region(None)).count == 2
    with pytest.raises(PeftuError, match="or a shorter instruction"):  # what tells them apart is cut off
        base.prefill(Prompt("x" * 99, ("no", "yes")), tiny_texts(2), base.region(None))


@pytest.mark.weights
def test_uncased_labels_of_minilm_are_refused() -> None:
    if weights_at_hand(bases.get("all-minilm-l6-v2")) is None:
        pytest.skip("all-minilm-l6-v2 is not in the cache — make setup puts it there")
    base = load_base("all-minilm-l6-v2", CPU)
    with pytest.raises(PeftuError, match="two labels have the same tokens"):
        base.prefill(tiny_prompt(("Yes", "yes")), [Text("a")], base.region(None))
