"""A module exported for peft scores there as here, and comes back number for number."""

import json
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from oracle import Oracle
from safetensors.torch import load_file, save_file
from test_virtual_against_peft import TextOracle
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from peftu.bank import Bound, Layout
from peftu.base.cards import bases, weights_at_hand
from peftu.base.model import FrozenBase, load_base
from peftu.base.prompt import Prompt
from peftu.base.reading import invocation
from peftu.base.region import Region
from peftu.config import RegionSpec
from peftu.data.problem import Text
from peftu.errors import PeftuError
from peftu.methods.ia3 import Ia3
from peftu.methods.lora import Lora
from peftu.methods.method import methods
from peftu.methods.p_tuning import PTuning
from peftu.methods.prefix_tuning import PrefixTuning
from peftu.methods.prompt_tuning import PromptTuning
from peftu.peft_formats import FORMATS
from peftu.peft_io import CONFIG, HEAD, OWN, WEIGHTS, export_module, import_module
from peftu.testing import FAMILIES, tiny_base, tiny_model, tiny_prompt, tiny_texts

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

CLOSE = 1e-4
WORDS = ("no", "nor", "yes")
EVERYWHERE = ("q", "k", "v", "o", "gate", "up", "down")


class Case:
    """A base with one user's module of a method in a region."""

    def __init__(self, base: FrozenBase, method: Any, spec: RegionSpec, prompt: Prompt, texts: Sequence[Text]) -> None:
        self.base, self.prompt, self.texts = base, prompt, list(texts)
        self.region: Region = base.region(spec)
        self.layout = Layout(method, base.sites(self.region, len(prompt.words)))
        generator = torch.Generator().manual_seed(3)
        row = self.layout.fresh(["somebody"], 0)[0]
        self.row = row + 0.2 * torch.randn(row.shape, generator=generator)
        self.row[self.layout.switches] = 1

    def exported(self, folder: Path) -> Path:
        tail = invocation(self.base, self.prompt, self.region)
        return export_module(folder, self.base, self.region, self.layout, self.row, {"method": "any"}, tail)

    def read(self, folder: Path) -> Tensor:
        tail = invocation(self.base, self.prompt, self.region)
        return import_module(folder, self.base, self.region, self.layout, tail)

    @torch.no_grad()
    def scores(self) -> Tensor:
        context = self.base.prefill(self.prompt, self.texts, self.region)
        binding = Bound(self.layout, self.layout.views(self.row[None]), 1)
        return self.base.readout(context, torch.arange(len(self.texts)), binding)

    @torch.no_grad()
    def theirs(self, folder: Path, model: Any, tokenizer: Any, labels: Any = None) -> Tensor:
        """Returns the scores of the hub model with what peft loads from the folder."""
        wrapped = peft.PeftModel.from_pretrained(model, str(folder)).eval()
        head = load_file(folder / HEAD) if (folder / HEAD).exists() else None
        judge = TextOracle(wrapped, tokenizer, labels, (head["weight"], head["bias"]) if head else None)
        judge.in_front = self.layout.method.tokens if isinstance(self.layout.method, PromptTuning) else 0
        return torch.stack([judge.scores(self.prompt, text) for text in self.texts])


def tiny(family: str, method: Any, **region: Any) -> Case:
    return Case(tiny_base(family), method, RegionSpec(**region), tiny_prompt(WORDS), tiny_texts(4))


def hub(family: str) -> tuple[Any, Any]:
    model, tokenizer = tiny_model(family)
    model.set_attn_implementation("eager")
    return model, tokenizer


def close(ours: Tensor, theirs: Tensor) -> bool:
    assert float(theirs.std()) > 100 * CLOSE
    return float((ours - theirs).abs().max()) < CLOSE


LORA = Lora(rank=4)
WIDE = Lora(rank=2, alpha=6, rslora=True, targets=EVERYWHERE)
ANSWER = [{"depth": None, "span": "answer"}, {"depth": 1, "span": "answer"}, {"depth": 2, "span": "last"}]
CASES: list[tuple[str, Any, dict[str, Any]]] = [
    *product(FAMILIES, (LORA, WIDE, Ia3()), ({}, {"depth": 2})),
    *product(("llama", "gpt2", "t5"), (LORA, WIDE), ANSWER),
    ("t5", Ia3(), {"span": "answer"}),
    *product(FAMILIES, (PromptTuning(tokens=3), PTuning(tokens=3, hidden=8), PrefixTuning(tokens=3)), ({},)),
]


@pytest.mark.parametrize(("family", "method", "region"), CASES)
def test_peft_scores_what_we_score(family: str, method: Any, region: dict[str, Any], tmp_path: Path) -> None:
    case = tiny(family, method, **region)
    folder = case.exported(tmp_path / "module")
    labels = hub(family)[0] if family == "bert" else None
    assert close(case.scores(), case.theirs(folder, *hub(family), labels))
    assert torch.allclose(case.read(folder), case.row, atol=1e-6)


@pytest.fixture(scope="module")
def smollm2() -> FrozenBase:
    if weights_at_hand(bases.get("smollm2-135m-instruct")) is None:
        pytest.skip("smollm2-135m-instruct is not in the cache — make setup puts it there")
    return load_base("smollm2-135m-instruct", dtype=torch.float32)


@pytest.mark.weights
@pytest.mark.parametrize(
    ("method", "region"),
    [(LORA, {}), (LORA, {"depth": 6, "span": "answer"}), (LORA, {"depth": 6, "span": "last"}), (Ia3(), {})],
    ids=["lora", "alora", "alora-last", "ia3"],
)
def test_smollm2_in_peft(smollm2: FrozenBase, method: Any, region: dict[str, Any], tmp_path: Path) -> None:
    prompt = Prompt("Is this post hateful? Answer yes or no.", ("no", "yes"))
    texts = [Text("Lovely weather, and 3 dogs came along.", "What did you do on Sunday?")]
    case = Case(smollm2, method, RegionSpec(**region), prompt, texts)
    case.row *= 0.1
    folder = weights_at_hand(bases.get("smollm2-135m-instruct"))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    assert close(case.scores(), case.theirs(case.exported(tmp_path), model, AutoTokenizer.from_pretrained(folder)))


def test_names_are_the_short_ones_where_they_can_be(tmp_path: Path) -> None:
    def config(**region: Any) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((tiny("llama", LORA, **region).exported(tmp_path) / CONFIG).read_text())
        return found

    assert config()["target_modules"] == ["down_proj", "o_proj", "q_proj", "v_proj"]
    assert "layers_to_transform" not in config()
    assert config(depth=2)["layers_to_transform"] == [1, 2]
    answer, last = (config(span=span)["alora_invocation_tokens"] for span in ("answer", "last"))
    assert len(answer) > 1
    assert last == answer[-1:]
    assert config()["base_model_name_or_path"] == "tiny-llama"


def test_a_folder_of_peft_s_own_is_read(tmp_path: Path) -> None:
    """Of another alpha, without our notes: only alpha times the matrices counts."""
    case = tiny("llama", LORA)
    model, tokenizer = hub("llama")
    config = peft.LoraConfig(
        r=4, lora_alpha=4, target_modules=["q_proj", "v_proj", "o_proj", "down_proj"], init_lora_weights=False
    )
    wrapped = peft.get_peft_model(model, config).eval()
    wrapped.peft_config["default"].base_model_name_or_path = "tiny-llama"
    wrapped.save_pretrained(str(tmp_path), save_embedding_layers=False)
    case.row = case.read(tmp_path)
    judge = Oracle(wrapped, tokenizer)
    with torch.no_grad():
        assert close(case.scores(), torch.stack([judge.scores(case.prompt, text) for text in case.texts]))


def _json(name: str, **changed: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        read = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**read, **changed}))

    return spoil


def _tensors(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS)

    return spoil


def _pickled(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")


def _unknown_base(folder: Path) -> None:
    (folder / OWN).unlink()
    _json(CONFIG, base_model_name_or_path="somebody/else")(folder)


A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
SPOILT: list[tuple[Callable[[Path], None], str]] = [
    (_json(OWN, fingerprint="sha256:00", base="other"), r"was made on other with fingerprint sha256:00…, this base is"),
    (_unknown_base, r"was made on somebody/else, this run's base is tiny-llama"),
    (_json(CONFIG, peft_type="IA3"), r"peft_type is IA3, lora is LORA"),
    (_json(CONFIG, r="four"), r"r is 'four', not a rank"),
    (_json(CONFIG, lora_alpha="many"), r"lora_alpha is 'many', not a number"),
    (_json(CONFIG, alpha_pattern={"q_proj": 32}), r"has an alpha_pattern, and modules here have one alpha"),
    (_json(CONFIG, alora_invocation_tokens=[5]), r"acts on the answer only, this run's modules on all positions"),
    (lambda folder: (folder / CONFIG).write_text("{"), r"adapter_config.json: not a whole JSON object"),
    (lambda folder: (folder / CONFIG).unlink(), r"adapter_config.json: is not there"),
    (_pickled, r"adapter_model.safetensors: is not there — .* pickled files are never read"),
    (lambda folder: (folder / WEIGHTS).write_bytes(b"x" * 40), r"not a whole safetensors file"),
    (_tensors(lambda t: t.pop(A)), r"lacks base_model\.model\.model\.layers\.0\.self_attn\.q_proj\.lora_A\.weight"),
    (_tensors(lambda t: t.update({A: t[A][:2].clone()})), r"q_proj\.lora_A\.weight is \(2, 32\), not \(4, 32\)"),
    (_tensors(lambda t: t.update({"stranger": t[A].clone()})), r"has stranger, where this run's modules do not act"),
]


@pytest.mark.parametrize(("spoil", "said"), SPOILT)
def test_a_wrong_folder_is_one_line(spoil: Callable[[Path], None], said: str, tmp_path: Path) -> None:
    case = tiny("llama", LORA)
    folder = case.exported(tmp_path)
    spoil(folder)
    with pytest.raises(PeftuError, match=said) as caught:
        case.read(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (LORA, "acts on all positions, this run's modules on the answer only"),
        (Ia3(), "peft's IA3 acts on all positions"),
        (PromptTuning(tokens=2), "peft's prompt tuning acts in every layer on all positions"),
        (PrefixTuning(tokens=2), "peft's prefix tuning acts in every layer"),
    ],
)
def test_a_module_for_all_positions_is_not_read_for_the_answer_alone(method: Any, said: str, tmp_path: Path) -> None:
    folder, narrow = tiny("llama", method).exported(tmp_path), tiny("llama", method, span="answer")
    with pytest.raises(PeftuError, match=said):
        narrow.read(folder)


def test_a_module_that_acts_from_other_tokens_on_is_not_read(tmp_path: Path) -> None:
    folder, narrow = tiny("llama", LORA, span="answer").exported(tmp_path), tiny("llama", LORA, span="last")
    with pytest.raises(PeftuError, match=r"acts from the tokens \[.*\] on, this run's modules from \["):
        narrow.read(folder)


@pytest.mark.parametrize(
    ("method", "region", "said"),
    [
        (Ia3(), {"span": "answer"}, "peft's IA3 acts on all positions"),
        (PromptTuning(), {"depth": 1}, "peft's prompt tuning acts in every layer on all positions"),
        (PrefixTuning(), {"span": "answer"}, "peft's prefix tuning acts in every layer"),
    ],
)
def test_what_peft_cannot_hold_is_refused(method: Any, region: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(PeftuError, match=said):
        tiny("llama", method, **region).exported(tmp_path)


def test_a_prefix_that_peft_would_half_read_is_refused(tmp_path: Path) -> None:
    """peft hands layer i of a T5 the pair 2i: with an even number of layers some prefixes are read twice."""
    case = Case(tiny_base("t5", layers=2), PrefixTuning(tokens=2), RegionSpec(), tiny_prompt(WORDS), tiny_texts(2))
    with pytest.raises(PeftuError, match="peft reads half of this base's prefixes"):
        case.exported(tmp_path)


def test_a_module_that_is_off_is_not_given_away(tmp_path: Path) -> None:
    case = tiny("llama", PromptTuning(tokens=3))
    case.row[case.layout.switches] = 0
    with pytest.raises(PeftuError, match="is switched off"):
        case.exported(tmp_path)


def test_the_cards_say_who_loads_what() -> None:
    for name in methods.names():
        method = methods.get(name)
        written = issubclass(method, tuple(FORMATS)) and not hasattr(method, "compose")
        assert bool(method.card.loads) == written, name
