"""Activated LoRA acts in peft where it acts here, whatever the answer says; where it would not, nothing is exported."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from test_peft_io import LORA, Case, _json, hub, tiny
from torch import Tensor

from peftu.bank import Bound
from peftu.base.answers import Answer
from peftu.base.model import FrozenBase
from peftu.base.prompt import Prompt
from peftu.config import RegionSpec
from peftu.data.problem import Text
from peftu.errors import PeftuError
from peftu.peft_formats import CONFIG
from peftu.testing import tiny_base, tiny_texts

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

FREE = Prompt("What do you say?", (), answer_tokens=48)
ANSWERS = ("plain words", "two\nlines", "Answer: it\nAnswer: all\nAnswer:")
# As in chat models' templates, a turn begins with a token that no text is cut into (<unk>) and ends in a line break.
TEMPLATE = (
    "{% for turn in messages %}<unk>{{ turn.role }}\n{{ turn.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<unk>assistant\n{% endif %}"
)


def base(template: str | None) -> FrozenBase:
    found = tiny_base("llama")
    found.family.tokenizer.chat_template = template  # type: ignore[attr-defined]
    return found


def case(span: Any, template: str | None = None, prompt: Prompt = FREE) -> Case:
    return Case(base(template), LORA, RegionSpec(span=span), prompt, tiny_texts(1))


@torch.no_grad()
def ours(own: Case, words: str) -> float:
    """Returns the answer's log-probability here."""
    context = own.base.prefill_answers(own.prompt, own.texts, [Answer(0, words)], own.region)
    binding = Bound(own.layout, own.layout.views(own.row[None]), 1)
    return float(own.base.readout(context, torch.zeros(1, dtype=torch.long), binding)[0, 0])


@torch.no_grad()
def theirs(own: Case, words: str, folder: Path) -> float:
    """Returns it as peft has it, in one pass over prompt and answer."""
    model, tokenizer = hub("llama")
    wrapped = peft.PeftModel.from_pretrained(model, str(folder)).eval()
    body, space = Prompt.body(own.texts[0]), ""
    if own.base.family.tokenizer.chat_template:  # type: ignore[attr-defined]
        turns = [{"role": "system", "content": own.prompt.instruction}, {"role": "user", "content": body}]
        given = tokenizer.apply_chat_template(turns, chat_template=TEMPLATE, tokenize=False, add_generation_prompt=True)
    else:
        given, space = f"<s>{own.prompt.instruction}\n\n{body}\nAnswer:", " "
    before, after = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (given, space + words))
    after.append(tokenizer.eos_token_id)
    logits: Tensor = wrapped(input_ids=torch.tensor([before + after])).logits[0, len(before) - 1 : -1]
    return float(logits.log_softmax(-1).gather(1, torch.tensor(after)[:, None]).sum())


@pytest.mark.parametrize(("span", "template"), [("answer", TEMPLATE), ("all", TEMPLATE), ("all", None)])
@pytest.mark.parametrize("words", ANSWERS)
def test_answers_are_as_likely_in_peft(span: str, template: str | None, words: str, tmp_path: Path) -> None:
    own = case(span, template)
    folder = own.exported(tmp_path / "module")
    assert abs(ours(own, words) - theirs(own, words, folder)) < 1e-4
    assert torch.allclose(own.read(folder), own.row, atol=1e-6)


@pytest.mark.parametrize(
    ("span", "template", "mend"),
    [("last", TEMPLATE, "span=answer or span=all"), ("last", None, "span=all"), ("answer", None, "span=all")],
)
def test_an_invocation_that_answers_may_hold_is_refused(
    span: str, template: str | None, mend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = case(span, template)
    for exchange in (own.exported, own.read):
        with pytest.raises(PeftuError, match=f"an answer may hold them — train it with {mend}$"):
            exchange(tmp_path / "module")
    assert not (tmp_path / "module").exists()
    # and rightly: peft takes the place in the answer for that before it
    monkeypatch.setattr("peftu.peft_formats.may_recur", lambda *_: False)
    folder = own.exported(tmp_path / "module")
    assert abs(ours(own, ANSWERS[0]) - theirs(own, ANSWERS[0], folder)) < 1e-4
    assert abs(ours(own, ANSWERS[2]) - theirs(own, ANSWERS[2], folder)) > 0.1


def test_label_words_that_hold_the_invocation_are_refused(tmp_path: Path) -> None:
    def labels(*words: str, span: Any = "last") -> Case:
        own = case(span, None, Prompt("Is it?", words))
        own.texts = [Text("it is"), Text("it is not")]
        return own

    words = ("yes", "yes: no", "no")
    with pytest.raises(PeftuError, match="an answer may hold them"):
        labels(*words).exported(tmp_path / "last")
    for number, own in enumerate((labels(*words, span="answer"), labels("yes", "yes, no", "no"))):
        folder = own.exported(tmp_path / str(number))
        found = own.theirs(folder, *hub("llama"))
        assert float((own.scores() - found).abs().max()) < 1e-4


def test_an_end_token_is_no_control_token_that_answers_cannot_hold(tmp_path: Path) -> None:
    template = TEMPLATE.replace("assistant\n{% endif", "assistant</s>{% endif").replace("<unk>", "")
    with pytest.raises(PeftuError, match="an answer may hold them"):
        case("last", template).exported(tmp_path / "module")


def test_one_token_of_markup_is_found_again(tmp_path: Path) -> None:
    # Of answers, too: what a template writes before every one of them belongs to the prompt.
    own = case("last", TEMPLATE.replace("{{ turn.role }}\n", "").replace("assistant\n", ""))
    assert torch.allclose(own.read(own.exported(tmp_path / "module")), own.row, atol=1e-6)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        *(({"alora_invocation_tokens": it}, "tokens is .*, not tokens") for it in ("text", [1.5], [True], {"a": 1})),
        ({"task_type": None}, "task_type is None, not CAUSAL_LM"),  # peft then looks for no place at all
    ],
)
def test_a_place_that_peft_would_not_look_for_is_refused(changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    own = tiny("llama", LORA, span="last")
    folder = own.exported(tmp_path)
    _json(CONFIG, **changed)(folder)
    with pytest.raises(PeftuError, match=said):
        own.read(folder)
