"""Bases: which models they are, what is read of a text, and that it is what transformers itself would read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hub
from oracle import Oracle
from transformers import AutoModel, AutoTokenizer

from peftu.base.cards import bases, weights_at_hand
from peftu.base.families import decoder, encoder, encoder_decoder
from peftu.base.model import FrozenBase, load_base, wrap
from peftu.base.prompt import Prompt
from peftu.config import RegionSpec
from peftu.data.problem import Text
from peftu.errors import PeftuError
from peftu.testing import CPU, FAMILIES, randomise, tiny_base, tiny_model, tiny_prompt, tiny_texts, tiny_tokenizer

torch.set_num_threads(1)

SIZE = len(tiny_tokenizer())
TOKENS = {"vocab_size": SIZE, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
GROUPED = {**TOKENS, **SHAPE, "num_key_value_heads": 2}

FOREIGN: dict[str, Callable[[], Any]] = {  # each would score wrongly, or break, if read like its cousins that are known
    "cohere": lambda: hub.CohereForCausalLM(hub.CohereConfig(**GROUPED)),
    "stablelm": lambda: hub.StableLmForCausalLM(hub.StableLmConfig(**GROUPED)),
    "opt": lambda: hub.OPTForCausalLM(hub.OPTConfig(**TOKENS, hidden_size=48, ffn_dim=48)),
}


def pair(make: Callable[[], Any], name: str) -> tuple[Any, FrozenBase]:
    """Returns a hub model with eager attention, and our base around its twin."""
    model, twin = make().eval(), make().eval()
    for one in (model, twin):
        randomise(one, seed=1)
    model.set_attn_implementation("eager")
    closing = model.config.is_encoder_decoder or model.get_output_embeddings() is None
    return model, wrap(twin, tiny_tokenizer(closing=closing), name)


def spans(base: FrozenBase) -> list[RegionSpec]:
    both = [RegionSpec(), RegionSpec(depth=1)]
    return both + [RegionSpec(depth=1, span=span) for span in ("answer", "last") if base.family.kind != "encoder"]


@pytest.mark.parametrize("name", FOREIGN)
def test_an_unknown_architecture_is_refused_rather_than_read_wrongly(name: str) -> None:
    with pytest.raises(PeftuError, match=f"'{name}'.*llama") as caught:
        pair(FOREIGN[name], "my-model")
    assert "my-model" in str(caught.value)
    assert "\n" not in str(caught.value)


# --- what is read of a text ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_s_scores_do_not_depend_on_its_neighbours(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base, prompt, texts = tiny_base(family), tiny_prompt(), tiny_texts(9)
    for spec in spans(base):
        region = base.region(spec)
        context = base.prefill(prompt, texts, region)
        together = base.readout(context, torch.arange(9))
        order = torch.tensor([8, 0, 3, 3, 1])
        assert torch.allclose(base.readout(context, order), together[order], atol=1e-5)
        with monkeypatch.context() as patch:
            for module in (decoder, encoder, encoder_decoder):
                patch.setattr(module, "PREFILL_TOKENS", 1)  # one text a batch
            alone = base.prefill(prompt, texts[::-1], region)
        assert torch.allclose(base.readout(alone, torch.arange(8, -1, -1)), together, atol=1e-5)
    vectors = base.embed(texts)
    assert np.allclose(vectors[::-1], base.embed(texts[::-1]), atol=1e-6)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert vectors.dtype == np.float32


@pytest.mark.parametrize("family", FAMILIES)
def test_long_texts_are_cut_and_counted(family: str) -> None:
    base, prompt = tiny_base(family), tiny_prompt(max_tokens=20)
    texts = [Text("x" * 15), Text("y" * 90), Text("y" * 91)]
    for spec in spans(base):
        context = base.prefill(prompt, texts, base.region(spec))
        assert context.cut == 2
        scores = base.readout(context, torch.arange(3))
        assert torch.allclose(scores[1], scores[2], atol=1e-6)
        assert not torch.allclose(scores[0], scores[1], atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_empty_text_is_read_like_any_other(family: str) -> None:
    model, tokenizer = tiny_model(family)
    base, prompt = tiny_base(family), tiny_prompt()
    judge = Oracle(model, tokenizer)
    for texts in ([Text("")], [Text("short"), Text(""), Text("longer text"), Text("")]):
        with torch.no_grad():
            expected = torch.stack([judge.scores(prompt, text) for text in texts])
        for spec in spans(base):
            context = base.prefill(prompt, texts, base.region(spec))
            assert torch.allclose(base.readout(context, torch.arange(len(texts))), expected, atol=1e-4)
        assert np.isfinite(base.embed(texts)).all()


@pytest.mark.parametrize(
    ("make", "reach"),
    [
        (lambda: hub.GPT2LMHeadModel(hub.GPT2Config(**TOKENS, n_positions=64, n_embd=32, n_layer=1, n_head=4)), 64),
        (lambda: hub.BertModel(hub.BertConfig(**TOKENS, **SHAPE, max_position_embeddings=40)), 40),
        (lambda: hub.RobertaModel(hub.RobertaConfig(**TOKENS, **SHAPE, max_position_embeddings=42)), 41),
    ],
    ids=["gpt2", "bert", "roberta"],
)
def test_a_text_that_the_base_has_no_room_for_is_cut_and_counted(make: Callable[[], Any], reach: int) -> None:
    """Instruction, question and the labels' words stay."""
    model, base = pair(make, "short-sighted")
    region, prompt, judge = base.region(RegionSpec()), tiny_prompt(max_tokens=256), Oracle(model, base.family.tokenizer)
    labels = max(map(len, prompt.words)) + 1
    around = 1 if base.family.kind == "encoder" else 1 + len(f"{prompt.instruction}\n\n" + "\nAnswer:") + labels
    longest = "x" * (reach - around)
    texts = [Text(longest), Text("y"), Text(longest + "y"), Text(longest + "y" * 400), Text("y", longest)]
    context = base.prefill(prompt, texts, region)
    scores = base.readout(context, torch.arange(5))
    assert torch.allclose(scores[0], judge.scores(prompt, texts[0]), atol=1e-4)
    assert torch.allclose(scores[2:4], scores[:1].expand(2, -1), atol=1e-5)
    assert (context.cut, context.beside_cut) == base.cuts(prompt, texts) == (2, 1)
    assert np.allclose(base.embed([Text("x" * (reach + 1)), Text("x" * 400)], 256).std(0), 0, atol=1e-6)
    if base.family.kind == "decoder":
        with pytest.raises(PeftuError, match=f"reads {reach} tokens at most, the prompt takes .* shorten it"):
            base.prefill(Prompt("x" * reach, prompt.words), texts, region)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_label_that_the_tokenizer_cannot_tell_is_one_line(family: str) -> None:
    base = tiny_base(family)
    with pytest.raises(PeftuError, match="tokenizer lacks characters of 'yes ☺' — give the task other words") as caught:
        base.prefill(tiny_prompt(("no", "yes ☺")), tiny_texts(2), base.region(None))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_regions_outside_the_model_are_refused(family: str) -> None:
    base = tiny_base(family)
    with pytest.raises(PeftuError, match="depth 4 is more than the base's 3 layers"):
        base.region(RegionSpec(depth=4))
    assert base.region(None) == base.region(base.default_region)
    if family == "bert":
        with pytest.raises(PeftuError, match="an encoder has no answer span"):
            base.sites(base.region(RegionSpec(span="answer")), 2)
    else:
        with pytest.raises(PeftuError, match="two labels have the same tokens"):
            base.prefill(tiny_prompt(("no", "no")), tiny_texts(2), base.region(RegionSpec()))


# --- real weights ----------------------------------------------------------------------------------------------------


ENCODERS = pytest.mark.parametrize(
    ("name", "most"), [("all-minilm-l6-v2", 256), pytest.param("all-mpnet-base-v2", 384, marks=pytest.mark.slow)]
)


def cached(name: str) -> Path:
    folder = weights_at_hand(bases.get(name))
    if folder is None:
        pytest.skip(f"{name} is not in the cache — python -m peftu.base.weights {name} puts it there")
    return folder


@pytest.mark.weights
@ENCODERS
def test_a_sentence_encoder_embeds_as_sentence_transformers_defines_it(name: str, most: int) -> None:
    """Mean over the tokens of at most so many, special ones included, scaled to length one."""
    folder = cached(name)
    model, tokenizer = AutoModel.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)
    texts = ["A dog runs in the park.", "No.", "Rates rose again, he said. " * 60, "¿Qué?"]
    expected = []
    for text in texts:
        inputs = tokenizer([text], truncation=True, max_length=most, return_tensors="pt")
        with torch.no_grad():
            expected.append(torch.nn.functional.normalize(model(**inputs).last_hidden_state[0].mean(0), dim=0).numpy())
    got = load_base(name, CPU).embed([Text(text) for text in texts], most)
    assert np.allclose(got, np.stack(expected), atol=1e-5)


@pytest.mark.weights
@ENCODERS
def test_a_sentence_encoder_s_own_label_scores_are_scaled_cosines(name: str, most: int) -> None:
    cached(name)
    base = load_base(name, CPU)
    prompt = Prompt("The topic is", ("sport", "money"), max_tokens=most)
    texts = [Text("He scored a goal."), Text("Rates rose again.")]
    scores = base.readout(base.prefill(prompt, texts, base.region(None)), torch.arange(2))
    vectors = base.embed([*texts, Text("The topic is sport"), Text("The topic is money")])
    expected = torch.from_numpy(10 * vectors[:2] @ vectors[2:].T).log_softmax(1)
    assert torch.allclose(scores, expected, atol=1e-4)
    assert scores.argmax(1).tolist() == [0, 1]


@pytest.mark.parametrize("span", ["answer", "last"])
def test_texts_that_are_all_empty_are_read(span: Any) -> None:
    base, prompt = tiny_base("llama"), tiny_prompt()
    whole, part = (
        base.readout(base.prefill(prompt, [Text("")], base.region(RegionSpec(depth=2, span=one))), torch.tensor([0]))
        for one in ("all", span)
    )
    assert torch.allclose(whole, part, atol=1e-5)
