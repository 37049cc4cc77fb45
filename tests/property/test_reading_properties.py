"""The judged text is read whole whenever it fits, whatever stands beside it, and what is cut is counted."""

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftu.base.prompt import About, Prompt
from peftu.base.reader import Cuts, Reader
from peftu.data.problem import Text

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))
from variants import tokenizer_of

WORDS = ["soup", "cold", "no", "yes", ".", "!?", "naïve", "\n", "12", "I love it", "—", "<s>"]
PARTS = st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join)
READERS = {
    name: Reader(tokenizer_of(name)[0], continues=continues)
    for name, continues in [("chat", True), ("metaspace-first", True), ("normalizer", True), ("wordpiece", False)]
}


def pieces(reader: Reader, prompt: Prompt, text: Text) -> tuple[list[int], Cuts]:
    """Returns the tokens between what stands before every text and what stands behind it."""
    reading = reader.read(prompt, [text, Text("x"), Text("")])
    return reading.lists[0], reading.cuts


def spans(reader: Reader, whole: str, start: int, end: int) -> list[int]:
    """Returns the tokens of a stretch of a string, cut as a whole by transformers."""
    encoded: Any = reader.tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    pairs = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    return [token for token, (first, last) in pairs if first < end and last > start]


@pytest.mark.parametrize("about", ["text", "context"])
@pytest.mark.parametrize("name", READERS)
@settings(max_examples=40, deadline=None)
@given(context=PARTS.filter(str.strip), words=PARTS.filter(str.strip), most=st.integers(1, 60))
def test_what_is_judged_is_read_whole_whenever_it_fits(
    name: str, about: About, context: str, words: str, most: int
) -> None:
    context, words = context.replace("<s>", "x"), words.replace("<s>", "x")  # transformers alone reads these as markup
    reader, text = READERS[name], Text(words, context)
    prompt = Prompt("Like it?", ("no", "yes"), max_tokens=most, about=about)
    ids, cuts = pieces(reader, prompt, text)
    uncut, none = pieces(reader, Prompt("Like it?", ("no", "yes"), max_tokens=10_000, about=about), text)
    assert none == (0, 0)

    frame, body = reader.frame(prompt), Prompt.body(text)
    before = f"{frame.pieces[0]}{prompt.instruction}{frame.pieces[1]}"
    whole = before + body + frame.pieces[2]
    begin = len(before) + (0 if about == "context" else len(body) - len(words))
    end = len(before) + (len(context) if about == "context" else len(body))
    judged = spans(reader, whole, begin, end)
    room = len(spans(reader, whole, len(before), len(before) + len(body)))
    read = " ".join(map(str, ids))

    assert " ".join(map(str, judged[:most])) in read
    assert (cuts.judged == 1) == (len(judged) > most)
    assert any(cuts) == (room > most) == (len(ids) < len(uncut))
    assert len(uncut) - len(ids) >= room - most
    if not any(cuts):
        assert ids == uncut


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=25, deadline=None)
@given(texts=st.lists(st.tuples(PARTS, st.none() | PARTS), min_size=1, max_size=5))
def test_a_prompt_s_tokens_do_not_depend_on_its_neighbours(name: str, texts: list[tuple[str, str | None]]) -> None:
    reader, prompt = READERS[name], Prompt("Like it?", ("no", "yes"), max_tokens=20)
    together = reader.read(prompt, [Text(*text) for text in texts])
    for text, ids in zip(texts, together.lists, strict=True):
        assert reader.read(prompt, [Text(*text)]).lists == [ids]
        assert ids[: together.head] == together.lists[0][: together.head]
