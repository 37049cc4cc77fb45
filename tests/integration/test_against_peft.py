"""A module of ours scores as the same module in peft, run by transformers' own forward pass."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from oracle import Oracle
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from peftu.bank import Bound, Layout
from peftu.base.cards import bases, weights_at_hand
from peftu.base.families.family import Context
from peftu.base.model import FrozenBase, load_base
from peftu.base.prompt import Prompt
from peftu.config import RegionSpec
from peftu.data.problem import Text
from peftu.methods.lora import Lora
from peftu.testing import CPU, FAMILIES, tiny_base, tiny_model, tiny_prompt, tiny_texts

torch.set_num_threads(1)
# peft 0.21 asks transformers 5 for an attribute under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

CLOSE = 1e-4
WORDS = ("no", "nor", "yes")
EVERYWHERE = ("q", "k", "v", "o", "gate", "up", "down")
SUFFIXES = {  # peft's own way to name the default targets of a layer
    "llama": ["q_proj", "v_proj", "o_proj", "down_proj"],
    "gpt2": ["c_attn", "c_proj"],
    "bert": ["query", "value", "output.dense"],
    "t5": ["q", "v", "o", "wo"],
}
PATTERN = {"llama": "layers", "gpt2": "h", "bert": "layer", "t5": "block"}


class Pair:
    """A base of ours with one user's module, and the means to build the same in peft."""

    def __init__(self, base: FrozenBase, region: RegionSpec, method: Lora, prompt: Prompt, texts: list[Text]) -> None:
        self.base, self.method, self.prompt, self.texts = base, method, prompt, texts
        self.region = base.region(region)
        self.layout = Layout(method, base.sites(self.region, len(prompt.words)))
        generator = torch.Generator().manual_seed(3)
        self.row = self.layout.fresh(["somebody"], 0)
        self.row += 0.2 * torch.randn(self.row.shape, generator=generator)
        views = self.layout.views(self.row)
        self.own = {
            site: {name: view[0].clone().requires_grad_() for name, view in tensors.items()}
            for site, tensors in views.items()
        }

    def scores(self) -> Tensor:
        """Returns [texts, labels] our scores, all texts in one batch."""
        context = self.base.prefill(self.prompt, self.texts, self.region)
        binding = Bound(self.layout, self.layout.views(self.row), 1)
        with torch.no_grad():
            return self.base.readout(context, torch.arange(len(self.texts)), binding)

    @property
    def names(self) -> list[str]:
        return [name for name in self.own if name != "head"]

    def wrapped(self, model: Any, **config: Any) -> Any:
        """Returns the hub model in peft with this module's numbers in its matrices."""
        options = {"target_modules": self.names, "fan_in_fan_out": model.config.model_type == "gpt2", **config}
        adapter = peft.LoraConfig(
            r=self.method.rank, lora_alpha=self.method.alpha, use_rslora=self.method.rslora, bias="none", **options
        )
        wrapped = peft.get_peft_model(model, adapter).eval()
        for name in self.names:
            module = wrapped.base_model.model.get_submodule(name)
            with torch.no_grad():
                module.lora_A["default"].weight.copy_(self.own[name]["A"])
                module.lora_B["default"].weight.copy_(self.own[name]["B"])
        found = {n.removeprefix("base_model.model.") for n, m in wrapped.named_modules() if hasattr(m, "lora_A")}
        assert found == set(self.names)
        return wrapped.base_model.model

    def oracle(self, model: Any, tokenizer: Any, labels: Any = None) -> Tensor:
        """Returns [texts, labels] the wrapped hub model's scores."""
        head = self.own.get("head")
        judge = Oracle(model, tokenizer, labels, (head["weight"], head["bias"]) if head else None)
        return torch.stack([judge.scores(self.prompt, text) for text in self.texts])

    def gradients(self) -> dict[str, Tensor]:
        """Returns 'site A' and 'site B' -> how our scores, weighed, move with that matrix."""
        context = self.base.prefill(self.prompt, self.texts, self.region)
        leaf = self.row.clone().requires_grad_()
        binding = Bound(self.layout, self.layout.views(leaf), 1)
        weighed(self.base.readout(context, torch.arange(len(self.texts)), binding)).backward()
        assert leaf.grad is not None
        found = self.layout.views(leaf.grad)
        return {f"{site} {name}": found[site][name][0] for site in self.names for name in "AB"}

    @contextmanager
    def only_after(self, model: Any, length: Callable[[], int]) -> Iterator[Any]:
        """Adds the module's change in a hub model by hand, on the positions from ``length()`` on and no others."""

        def change(name: str) -> Callable[[Any, tuple[Any, ...], Tensor], Tensor]:
            a, b = self.own[name]["A"], self.own[name]["B"]

            def hook(_: Any, inputs: tuple[Any, ...], y: Tensor) -> Tensor:
                on = (torch.arange(y.shape[1]) >= length())[None, :, None]
                return y + on * (self.method.scale * inputs[0] @ a.T @ b.T)

            return hook

        handles = [model.get_submodule(name).register_forward_hook(change(name)) for name in self.names]
        yield model
        for handle in handles:
            handle.remove()


def hub(family: str) -> tuple[Any, Any]:
    model, tokenizer = tiny_model(family)
    model.set_attn_implementation("eager")
    return model, tokenizer


def weighed(scores: Tensor) -> Tensor:
    """Returns one number from scores, a different weight for each."""
    return (scores * torch.linspace(-1, 1, scores.numel()).view_as(scores)).sum()


def alike(ours: Tensor, theirs: Tensor | None) -> bool:
    """Returns whether two gradients agree, measured by the largest of their numbers."""
    assert theirs is not None
    return float((ours - theirs).abs().max()) <= 1e-3 * float(theirs.abs().max()) + 1e-6


def check_gradients(pair: Pair, wrapped: Any) -> None:
    """Checks that LoRA's gradients in ours, made in the call, are those that peft's model has."""
    for key, ours in pair.gradients().items():
        site, matrix = key.split()
        assert alike(ours, getattr(wrapped.get_submodule(site), f"lora_{matrix}")["default"].weight.grad), key


def check_read_as_alone(base: FrozenBase, context: Context, layout: Layout) -> None:
    """Checks that rows of three users, the third's modules off, score as each alone, gradients too."""
    rows = torch.tensor([2, 0, 1, 3, 1, 0])
    values = 0.3 * torch.randn(3, layout.width, generator=torch.Generator().manual_seed(0))
    values[:2, layout.switches], values[2] = 1, 0  # the third has nothing
    values.requires_grad_()
    together = base.readout(context, rows, Bound(layout, layout.views(values), 3))
    alone = [
        base.readout(context, row[None], Bound(layout, layout.views(values[[place // 2]]), 1))[0]
        for place, row in enumerate(rows)
    ]
    assert torch.allclose(together, torch.stack(alone), atol=1e-4)
    both = [torch.autograd.grad(weighed(scores), values)[0] for scores in (together, torch.stack(alone))]
    assert alike(*both)
    assert float(both[0][:2].abs().amax(1).min()) > 0
    assert torch.allclose(together[4:], base.readout(context, rows[4:]), atol=1e-5)
    off = base.readout(context, rows, Bound(layout, layout.views(torch.zeros_like(values)), 3))
    assert torch.equal(off, base.readout(context, rows))


def close(ours: Tensor, theirs: Tensor) -> bool:
    """Returns whether the scores agree, and differ enough between texts and labels to tell anything."""
    assert float(theirs.detach().std()) > 100 * CLOSE
    return float((ours - theirs).detach().abs().max()) < CLOSE


@pytest.mark.parametrize("exclusive", [True, False], ids=["exclusive", "multi"])
@pytest.mark.parametrize("words", [("no", "yes"), WORDS], ids=["first-token", "trie"])
@pytest.mark.parametrize("family", FAMILIES)
def test_zero_shot_scores_are_the_hub_model_s_own(family: str, words: tuple[str, ...], exclusive: bool) -> None:
    base, prompt, texts = tiny_base(family), tiny_prompt(words, max_tokens=24, exclusive=exclusive), tiny_texts(6)
    judge = Oracle(*hub(family))
    expected = torch.stack([judge.scores(prompt, text) for text in texts])
    specs = [RegionSpec(), RegionSpec(depth=1)] + [RegionSpec(span=s) for s in ("answer", "last") if family != "bert"]
    for spec in specs:
        context = base.prefill(prompt, texts, base.region(spec))
        assert close(base.readout(context, torch.arange(len(texts))), expected)


@pytest.mark.parametrize(
    "method",
    [Lora(rank=4), Lora(rank=2, alpha=6, rslora=True, targets=EVERYWHERE)],
    ids=["default", "rslora-everywhere"],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_whole_region_is_peft(family: str, method: Lora) -> None:
    pair = Pair(tiny_base(family), RegionSpec(), method, tiny_prompt(WORDS), tiny_texts(5))
    model, tokenizer = hub(family)
    assert close(pair.scores(), pair.oracle(pair.wrapped(model), tokenizer, hub(family)[0]))


@pytest.mark.parametrize("family", FAMILIES)
def test_depth_is_peft_s_layers_to_transform(family: str) -> None:
    pair = Pair(tiny_base(family), RegionSpec(depth=2), Lora(rank=4), tiny_prompt(WORDS), tiny_texts(5))
    model, tokenizer = hub(family)
    wrapped = pair.wrapped(
        model, target_modules=SUFFIXES[family], layers_to_transform=[1, 2], layers_pattern=PATTERN[family]
    )
    assert close(pair.scores(), pair.oracle(wrapped, tokenizer, hub(family)[0]))


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_peft_s(family: str) -> None:
    """Scores may agree where gradients do not: padding, gathers and attention have backward passes of their own."""
    method = Lora(rank=2, targets=EVERYWHERE, head=False)
    pair = Pair(tiny_base(family), RegionSpec(), method, tiny_prompt(WORDS), tiny_texts(5))
    model, tokenizer = hub(family)
    wrapped = pair.wrapped(model)
    weighed(pair.oracle(wrapped, tokenizer, hub(family)[0])).backward()
    check_gradients(pair, wrapped)


@pytest.mark.parametrize(("depth", "span"), [(1, "answer"), (3, "answer"), (2, "last")])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_answer_span_changes_the_answer_positions_only(family: str, depth: int, span: Any) -> None:
    spec = RegionSpec(depth=depth, span=span)
    pair = Pair(tiny_base(family), spec, Lora(rank=4, targets=EVERYWHERE), tiny_prompt(WORDS), tiny_texts(5))
    model, tokenizer = hub(family)
    judge, expected, length = Oracle(model, tokenizer), [], 0
    with pair.only_after(model, lambda: length):
        for text in pair.texts:
            before, tail = judge.prompt_ids(pair.prompt, text)
            length = len(before) + (len(tail) - 1 if span == "last" else 0)
            expected.append(judge.scores(pair.prompt, text))
    assert close(pair.scores(), torch.stack(expected))
    weighed(torch.stack(expected)).backward()
    for key, ours in pair.gradients().items():
        site, name = key.split()
        assert alike(ours, pair.own[site][name].grad), key


@pytest.mark.parametrize("depth", [1, 3])
def test_the_answer_span_of_an_encoder_decoder_is_its_decoder(depth: int) -> None:
    spec = RegionSpec(depth=depth, span="answer")
    pair = Pair(tiny_base("t5"), spec, Lora(rank=4, targets=EVERYWHERE), tiny_prompt(WORDS), tiny_texts(5))
    assert all(name.startswith("decoder.") for name in pair.names)
    model, tokenizer = hub("t5")
    assert close(pair.scores(), pair.oracle(pair.wrapped(model), tokenizer))


# --- real weights ----------------------------------------------------------------------------------------------------

NOTES = [
    Text("You people never learn, do you?"),
    Text("Lovely weather for a walk by the river, and 3 dogs came along.", "What did you do on Sunday?"),
    Text("No."),
]


def real(name: str) -> Path:
    folder = weights_at_hand(bases.get(name))
    if folder is None:
        pytest.skip(f"{name} is not in the cache — make setup puts it there")
    return folder


@pytest.mark.slow  # as virtual tokens and stored modules on it
@pytest.mark.weights
@torch.no_grad()
def test_smollm2_is_peft_too() -> None:
    folder = real("smollm2-135m-instruct")
    base = load_base("smollm2-135m-instruct", CPU)
    prompt = Prompt("Is this post hateful? Answer in one of three ways.", ("agree strongly", "agree", "no"))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    tokenizer = AutoTokenizer.from_pretrained(folder)

    plain = Oracle(model, tokenizer)
    expected = torch.stack([plain.scores(prompt, text) for text in NOTES])
    context = base.prefill(prompt, NOTES, base.region(RegionSpec(depth=6, span="answer")))
    assert close(base.readout(context, torch.arange(len(NOTES))), expected)

    pair = Pair(base, RegionSpec(), Lora(rank=4, alpha=1), prompt, NOTES[:1])
    assert close(pair.scores(), pair.oracle(pair.wrapped(model), tokenizer))
