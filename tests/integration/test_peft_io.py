"""A module exported for peft scores there as here, and comes back number for number."""

import json
import math
import os
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
from peftu.base.families.decoder import Decoder
from peftu.base.model import FrozenBase, load_base
from peftu.base.prompt import Prompt
from peftu.base.region import Region
from peftu.config import RegionSpec
from peftu.data.problem import Text
from peftu.errors import PeftuError
from peftu.methods.ia3 import Ia3
from peftu.methods.lora import ALora, Lora
from peftu.methods.method import methods
from peftu.methods.p_tuning import PTuning
from peftu.methods.prefix_tuning import PrefixTuning
from peftu.methods.prompt_tuning import PromptTuning
from peftu.peft_formats import FORMATS
from peftu.peft_io import CONFIG, HEAD, LORAX, OWN, VLLM, WEIGHTS, export_module, import_module, loaders
from peftu.testing import CPU, FAMILIES, tiny_base, tiny_model, tiny_prompt, tiny_texts

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
        return export_module(folder, self.base, self.prompt, self.region, self.layout, self.row, {"method": "any"})

    def read(self, folder: Path) -> Tensor:
        return import_module(folder, self.base, self.prompt, self.region, self.layout)

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
    return load_base("smollm2-135m-instruct", CPU)


@pytest.mark.weights
@pytest.mark.parametrize(
    ("method", "region"),
    [
        (LORA, {}),
        (LORA, {"depth": 6, "span": "answer"}),
        (LORA, {"depth": 6, "span": "last"}),
        pytest.param(Ia3(), {}, marks=pytest.mark.slow),
    ],
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
BAD = (math.nan, math.inf, -math.inf, 1e30, 65_505.0)
OTHER = (torch.float64, torch.int64, torch.int8, torch.bool, torch.complex64)


def _numbers(change: Callable[[Tensor], Tensor]) -> Callable[[Path], None]:
    return _tensors(lambda t: t.update({A: change(t[A])}))


def _last(number: float) -> Callable[[Path], None]:
    return _numbers(lambda a: torch.cat([a[:-1], torch.full_like(a[-1:], number)]))


def _scaled(folder: Path) -> None:
    _json(CONFIG, lora_alpha=60_000)(folder)
    _tensors(lambda tensors: tensors.update({name: 1000 * tensor for name, tensor in tensors.items()}))(folder)


def _nested(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).write_text("[" * 100_000 + "]" * 100_000)

    return spoil


def _fifo(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return spoil


SPOILT: list[tuple[Callable[[Path], None], str]] = [
    (
        _json(OWN, fingerprint="sha256:00", base="other"),
        r"was made on 'other' with fingerprint 'sha256:00'…, this base is",
    ),
    (_unknown_base, r"was made on 'somebody/else', this run's base is tiny-llama"),
    (_json(CONFIG, peft_type="IA3"), r"peft_type is 'IA3', lora is LORA"),
    (_json(CONFIG, r="four"), r"r is 'four', not a rank"),
    (_json(CONFIG, lora_alpha="many"), r"lora_alpha is 'many', not a number"),
    (
        _json(CONFIG, alpha_pattern={"q_proj": 32}),
        r"alpha_pattern' is {'q_proj': 32} — modules here have one rank and one alpha",
    ),
    (_json(CONFIG, alora_invocation_tokens=[5]), r"acts on the answer only, this run's modules on all positions"),
    *((_json(CONFIG, r=r), r"r is .*, not a rank") for r in (0, -4, True, 4.0, None, [4])),
    (_json(CONFIG, r=8), r"r is 8, this run's modules have rank 4"),
    *(
        (_json(CONFIG, lora_alpha=alpha), r"lora_alpha is .*, not a number above 0 up to 65504")
        for alpha in (math.nan, math.inf, 10**400, 0, -1, True, None, 1e30)
    ),
    (_json(CONFIG, use_rslora="yes"), r"use_rslora is 'yes', not true or false"),
    (_scaled, r"lora_alpha makes numbers beyond 65504 of its tensors"),
    (_json(CONFIG, target_modules=["q_proj"]), r"does not target model\.layers\.0\.\S+, where this run's modules act"),
    *((_nested(name), rf"{name}: not a whole JSON object") for name in (CONFIG, OWN)),
    *((_fifo(name), rf"{name}: is not there") for name in (CONFIG, WEIGHTS, OWN)),
    *((_last(number), r"q_proj\.lora_A\.weight has numbers that are not finite or beyond 65504") for number in BAD),
    *((_numbers(lambda a, kind=kind: a.to(kind)), r"lora_A\.weight holds \w+ — save it as float32") for kind in OTHER),
    (_json(OWN, base="a\nb\u202e", fingerprint="\n"), r"was made on 'a\\nb\\u202e' with fingerprint '\\n'…"),
    (_tensors(lambda t: t.update({"a\nb": t[A].clone()})), r"has 'a\\nb', where this run's modules do not act"),
    (lambda folder: (folder / CONFIG).write_text("{"), r"adapter_config.json: not a whole JSON object"),
    (lambda folder: (folder / CONFIG).unlink(), r"adapter_config.json: is not there"),
    (_pickled, r"adapter_model.safetensors: is not there — .* pickled files are never read"),
    (lambda folder: (folder / WEIGHTS).write_bytes(b"x" * 40), r"not a whole safetensors file"),
    (_tensors(lambda t: t.pop(A)), r"lacks base_model\.model\.model\.layers\.0\.self_attn\.q_proj\.lora_A\.weight"),
    (_tensors(lambda t: t.update({A: t[A][:2].clone()})), r"q_proj\.lora_A\.weight is \(2, 32\), not \(4, 32\)"),
    (_tensors(lambda t: t.update({"stranger": t[A].clone()})), r"has 'stranger', where this run's modules do not act"),
]


@pytest.mark.parametrize(("spoil", "said"), SPOILT)
def test_a_wrong_folder_is_one_line(spoil: Callable[[Path], None], said: str, tmp_path: Path) -> None:
    case = tiny("llama", LORA)
    folder = case.exported(tmp_path)
    spoil(folder)
    with pytest.raises(PeftuError, match=said) as caught:
        case.read(folder)
    assert str(caught.value).isprintable()


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


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_numbers_in_half_precision_are_taken(kind: torch.dtype, tmp_path: Path) -> None:
    case = tiny("llama", LORA)
    folder = case.exported(tmp_path)
    _tensors(lambda tensors: tensors.update({name: tensor.to(kind) for name, tensor in tensors.items()}))(folder)
    assert torch.equal(case.read(folder), case.row.to(kind).float())


@pytest.mark.parametrize("method", [PromptTuning(tokens=3), PrefixTuning(tokens=3)])
def test_virtual_tokens_are_what_the_config_says(method: Any, tmp_path: Path) -> None:
    case = tiny("llama", method)
    folder = case.exported(tmp_path)
    for changed, said in (
        ({"num_virtual_tokens": 7}, "num_virtual_tokens is 7, this run's modules have 3"),
        ({"num_virtual_tokens": 3, "num_transformer_submodules": 2}, r"num_transformer_submodules'? is 2"),
        ({"num_transformer_submodules": 1, "task_type": None}, "task_type is None, not CAUSAL_LM"),
    ):
        _json(CONFIG, **changed)(folder)
        with pytest.raises(PeftuError, match=said):
            case.read(folder)


SERVERS: list[tuple[Any, Any, dict[str, Any], list[str], list[str]]] = [
    ("llama", LORA, {}, ["peft", "vLLM", "LoRAX"], []),
    ("llama", LORA, {"depth": 2}, ["peft", "vLLM"], []),  # LoRAX drops what is not in every layer
    ("llama", LORA, {"span": "answer"}, ["peft"], []),
    ("llama", ALora(rank=4), {"span": "answer"}, ["peft"], []),
    ("llama", Lora(rank=17, targets=("q", "o")), {}, ["peft", "vLLM", "LoRAX"], ["vLLM needs --max-lora-rank 32"]),
    ("llama", Lora(rank=4, head=True), {}, ["peft"], [f"its head is in {HEAD}, which only peftu reads"]),
    ("llama", Ia3(), {}, ["peft"], []),
    ("llama", PromptTuning(tokens=2), {}, ["peft"], []),
    ("gpt2", LORA, {}, ["peft"], []),
    ("t5", LORA, {}, ["peft"], []),
    ("bert", LORA, {}, ["peft"], [f"its head is in {HEAD}, which only peftu reads"]),
]


@pytest.mark.parametrize(("family", "method", "region", "loads", "notes"), SERVERS)
def test_who_loads_a_module_goes_by_base_method_and_region(
    family: str, method: Any, region: dict[str, Any], loads: list[str], notes: list[str]
) -> None:
    case = tiny(family, method, **region)
    assert loaders(case.base, case.region, case.layout) == (loads, notes)


def test_types_of_decoders_that_servers_know_are_ours() -> None:
    assert Decoder.types.keys() >= VLLM | LORAX
    assert not (VLLM | LORAX) & {"gpt2", "gpt_neox"}
    page = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
    for server, types in (("vLLM", VLLM), ("LoRAX", LORAX)):
        (row,) = (line for line in page.splitlines() if line.startswith(f"| {server} |"))
        assert set(row.split("|")[2].replace("`", "").replace(" ", "").split(",")) == types


def test_a_base_that_is_not_the_hub_s_does_not_go_by_its_name(tmp_path: Path) -> None:
    """The card's weights are dequantised from four bits: in the hub's model the module would score otherwise."""
    case, card = tiny("llama", LORA), bases.get("smollm2-135m-instruct")
    case.base.name = card.name
    folder = case.exported(tmp_path)
    config, own = (json.loads((folder / name).read_text()) for name in (CONFIG, OWN))
    assert config["base_model_name_or_path"] == card.name
    assert own["weights"] == f"dequantised from {card.gguf}, not {card.hub}'s own"
    _, notes = loaders(case.base, case.region, case.layout)
    assert notes == [f"it was trained on weights {own['weights']}: give it those in {card.folder}"]
    (folder / OWN).unlink()
    for name in (card.name, str(card.folder)):
        _json(CONFIG, base_model_name_or_path=name)(folder)
        assert torch.equal(case.read(folder), case.row)
    _json(CONFIG, base_model_name_or_path=card.hub)(folder)
    with pytest.raises(
        PeftuError, match=f"was made on {card.hub}, this run's base is dequantised .* --base {card.hub}"
    ):
        case.read(folder)


def test_a_base_of_the_hub_goes_by_its_id_and_revision(tmp_path: Path) -> None:
    case, card = tiny("llama", LORA), bases.get("all-minilm-l6-v2")
    case.base.name = card.name
    folder = case.exported(tmp_path)
    assert json.loads((folder / CONFIG).read_text())["base_model_name_or_path"] == card.hub
    assert json.loads((folder / OWN).read_text())["weights"] is None
    (folder / OWN).unlink()
    for revision in (None, "main", card.revision):
        _json(CONFIG, revision=revision)(folder)
        assert torch.equal(case.read(folder), case.row)
    _json(CONFIG, revision="v0")(folder)
    with pytest.raises(PeftuError, match=f"was made on revision 'v0' of {card.name}"):
        case.read(folder)


def test_the_cards_say_who_loads_what() -> None:
    for name in methods.names():
        method = methods.get(name)
        written = issubclass(method, tuple(FORMATS)) and not hasattr(method, "compose")
        assert bool(method.card.loads) == written, name
