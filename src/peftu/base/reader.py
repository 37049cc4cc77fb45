"""Prompts as tokens, as the base's own tokenizer cuts the whole string: the parts' ends are found, never cut apart.

The tokens of two strings together are not those of each: marks of word beginnings, line breaks behind a full stop and
the like are only right in their place. People's texts are characters: a control token's name in one is not that token.
"""

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import Any, NamedTuple

from tokenizers import Encoding, Tokenizer

from peftu.base.frame import Frame, framed, plain_frame
from peftu.base.prompt import Prompt
from peftu.data.problem import Text
from peftu.errors import PeftuError

PROBES = ("x", "", "x.", "x!?", "x\n", "x ", "\n", " ", "1", "é", "…", "\u4e00")  # what a text may end in


class Cuts(NamedTuple):
    """How many texts were longer than allowed.

    Attributes:
        texts: the judged text lost its end.
        contexts: the judged text was kept whole, and what it is about lost its beginning, or all of it.
    """

    texts: int = 0
    contexts: int = 0


@dataclass(frozen=True)
class Reading:
    """What is read of each text.

    Attributes:
        lists: the tokens of each text's whole prompt.
        head: how many tokens all of them begin with, before their texts.
        cuts: how many were cut.
    """

    lists: list[list[int]]
    head: int
    cuts: Cuts


@dataclass(frozen=True)
class Ending:
    """How prompts end, whatever their text.

    Attributes:
        tail: the tokens behind a text that no text changes, where a text is a single letter.
        dropped: tokens at a prompt's end that are not read, since they are others before an answer.
        words: the tokens of each label's word, behind what is read.
    """

    tail: list[int]
    dropped: int
    words: list[list[int]]


class Reader:
    """Cuts prompts into tokens.

    Args:
        tokenizer: of the base.
        continues: the base continues its prompt with the answer, in turns where its tokenizer has a chat template; else
            it reads plain words, with the tokens that the tokenizer puts around them.

    Raises:
        PeftuError: the tokenizer has no fast form.
    """

    def __init__(self, tokenizer: Any, continues: bool) -> None:
        if getattr(tokenizer, "backend_tokenizer", None) is None:
            raise PeftuError("base: its tokenizer has no fast form — save it with a tokenizer.json")
        self.tokenizer, self.continues = tokenizer, continues

    # --- whole prompts ------------------------------------------------------------------------------------------

    def frame(self, prompt: Prompt) -> Frame:
        """Returns what stands around the parts of a prompt: as recorded in it, else as the template has it today.

        Raises:
            PeftuError: the chat template fails, or loses a part of the prompt.
        """
        if prompt.frame is not None:
            return prompt.frame
        return framed(self.tokenizer, len(prompt.shown)) if self.continues else plain_frame(len(prompt.shown))

    def read(self, prompt: Prompt, texts: Sequence[Text]) -> Reading:
        """Returns the tokens of each text's prompt, the text cut to ``prompt.max_tokens``; see `_kept`."""
        frame = self.frame(prompt)
        return self._read(self._before(frame, prompt), self._named(frame.pieces[-1]), texts, prompt.max_tokens, frame)

    def bodies(self, texts: Sequence[Text], max_tokens: int) -> Reading:
        """Returns the tokens of texts without a prompt, cut to so many, those that the tokenizer adds included."""
        added = 0 if self.continues else len(self._encoded([""], special=True)[0].ids)
        return self._read("", "", texts, max(1, max_tokens - added), Frame(("", ""), ""))

    def alone(self, strings: Sequence[str]) -> list[list[int]]:
        """Returns the tokens of strings that stand for themselves."""
        return [encoded.ids for encoded in self._encoded(strings)]

    def ending(self, prompt: Prompt) -> Ending:
        """Returns how prompts end, whatever their text, and the label words' tokens behind that.

        Raises:
            PeftuError: the tokenizer joins everything behind a text to what comes before or after it.
        """
        frame = self.frame(prompt)
        before, tail = self._named(frame.pieces[-2]), self._named(frame.pieces[-1])
        behind = []
        for probe, encoded in zip(PROBES, self._encoded([before + probe + tail for probe in PROBES]), strict=True):
            end = len(before) + len(probe)
            behind.append([i for i, (start, _) in zip(encoded.ids, encoded.offsets, strict=True) if start >= end])
        fixed = _common([ids[::-1] for ids in behind])
        whole, *answered = self._answered(frame, prompt.words)
        shared = _common([whole, *answered]) if prompt.words else len(whole)
        dropped = len(whole) - shared
        if fixed <= dropped:
            raise PeftuError("base: its tokenizer joins the answer to the text before it — give it a chat template")
        return Ending(whole[len(whole) - fixed : shared], dropped, [ids[shared:] for ids in answered])

    def answers(self, prompt: Prompt, answers: Sequence[str]) -> list[list[int]]:
        """Returns the tokens of free answers behind a prompt."""
        frame = self.frame(prompt)
        whole, *answered = self._answered(frame, answers)
        alone = self._encoded([frame.lead + answer for answer in answers]) if answers else []
        return [
            ids[len(whole) :] if ids[: len(whole)] == whole else apart.ids
            for ids, apart in zip(answered, alone, strict=True)
        ]

    def opening(self, prompt: Prompt) -> list[int]:
        """Returns the tokens that stand before a text."""
        reading = self.read(prompt, [Text("x")])
        return reading.lists[0][: reading.head]

    def clipped(self, texts: Sequence[Text], max_tokens: int) -> list[str]:
        """Returns the texts with their contexts as plain strings, cut as `read` cuts them."""
        bodies = [Prompt.body(text) for text in texts]
        strings = []
        for text, body, encoded in zip(texts, bodies, self._encoded(bodies), strict=True):
            kept, _ = _kept(encoded.offsets, 0, text, max_tokens)
            whole = len(kept) == len(encoded.ids)
            strings.append(body if whole else _spanned(body, [encoded.offsets[place] for place in kept]))
        return strings

    def end(self, prompt: Prompt, ends: frozenset[int]) -> int | None:
        """Returns the token that ends an answer: what the template puts there where that is an end, else the usual.

        Args:
            prompt: the prompt.
            ends: the tokens that end what the base writes.
        """
        after = self._encoded([self._named(self.frame(prompt).end)])[0].ids[:1]
        usual = self.tokenizer.eos_token_id
        return next((token for token in (*after, usual) if token in ends), min(ends, default=None))

    # --- parts --------------------------------------------------------------------------------------------------

    def _before(self, frame: Frame, prompt: Prompt) -> str:
        """Returns what stands before a text."""
        parts = [prompt.instruction, *(part for item in prompt.shown for part in item)]
        pieces = [self._named(piece) for piece in frame.pieces[:-1]]
        if frame.trims:
            parts = [part.strip() for part in parts]
        return "".join(piece + part for piece, part in zip(pieces, [*parts, ""], strict=True))

    def _answered(self, frame: Frame, answers: Sequence[str]) -> list[list[int]]:
        """Returns the tokens of a short prompt's end alone, and with each answer behind it."""
        asked = f"{self._named(frame.pieces[-2])}x{self._named(frame.pieces[-1])}"
        return [encoded.ids for encoded in self._encoded([asked, *(asked + frame.lead + answer for answer in answers)])]

    def _read(self, before: str, after: str, texts: Sequence[Text], most: int, frame: Frame) -> Reading:
        begin, lists, heads, text_cuts, context_cuts = len(before), [], [], 0, 0
        texts = [_trimmed(text) for text in texts] if frame.trims else texts
        prompts = [before + Prompt.body(text) + after for text in texts]
        for text, encoded in zip(texts, self._encoded(prompts, special=not self.continues), strict=True):
            ids, offsets = encoded.ids, encoded.offsets
            kept, cut = _kept(offsets, begin, text, most)
            lists.append([ids[place] for place in kept] if any(cut) else ids)
            heads.append(next((place for place, (_, end) in enumerate(offsets) if end > begin), len(ids)))
            text_cuts, context_cuts = text_cuts + cut.texts, context_cuts + cut.contexts
        head = min([_common(lists), *heads]) if lists else 0
        return Reading(lists, head, Cuts(text_cuts, context_cuts))

    # --- the tokenizer ------------------------------------------------------------------------------------------

    def _encoded(self, strings: Sequence[str], special: bool = False) -> list[Encoding]:
        if not strings:
            return []
        try:
            return self._backend[0].encode_batch(list(strings), add_special_tokens=special)
        except UnicodeEncodeError:  # half of a pair of UTF-16 numbers
            raise PeftuError("text: holds a lone surrogate, which is no character — write the text in UTF-8") from None

    def _named(self, piece: str) -> str:
        """Returns a string of the frame, its control tokens called what only we call them."""
        _, names = self._backend
        if not names:
            return piece
        known = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
        return re.sub(known, lambda found: names[found.group()], piece)

    @cached_property
    def _backend(self) -> tuple[Tokenizer, dict[str, str]]:
        """Returns a tokenizer whose control tokens have names that no text can hold, and these names by the usual."""
        state = json.loads(self.tokenizer.backend_tokenizer.to_str())
        nonce, names = secrets.token_hex(8), {}
        for token in state["added_tokens"]:
            if token["special"]:
                names[token["content"]] = token["content"] = f"<|{nonce}{token['id']}|>"
        model = state["model"]
        if isinstance(model["vocab"], dict):
            model["vocab"] = {names.get(piece, piece): number for piece, number in model["vocab"].items()}
        else:
            model["vocab"] = [[names.get(piece, piece), weight] for piece, weight in model["vocab"]]
        if model.get("unk_token") in names:
            model["unk_token"] = names[model["unk_token"]]
        return Tokenizer.from_str(json.dumps({**state, "truncation": None, "padding": None})), names


def _trimmed(text: Text) -> Text:
    if text.context:
        return Text(text.text.rstrip(), text.context.lstrip())
    return Text(text.text.strip(), text.context)


def _kept(offsets: Sequence[tuple[int, int]], begin: int, text: Text, most: int) -> tuple[list[int], Cuts]:
    """Returns which tokens are read so that at most ``most`` are the body's, and what was cut.

    The judged text stays as long as it fits: the context loses its beginning, then all of it; only then does the text
    lose its end.

    Args:
        offsets: [tokens] first character and end of each.
        begin: first character of the body.
        text: the text, with its context.
        most: tokens of the body at most.
    """
    end = begin + len(Prompt.body(text))
    places = range(len(offsets))
    inside = [place for place in places if offsets[place][0] < end and offsets[place][1] > begin]
    if len(inside) <= most:
        return list(places), Cuts()
    first, stop = inside[0], inside[-1] + 1
    judged = next((place for place in inside if offsets[place][1] > end - len(text.text)), stop)
    link = next(place for place in inside if offsets[place][1] > begin + len(text.context or ""))
    if stop - most < link:
        return [*range(first), *range(stop - most, len(offsets))], Cuts(contexts=1)
    last = min(stop, judged + most)  # nothing of the context fits
    return [*range(first), *range(judged, last), *range(stop, len(offsets))], Cuts(int(last < stop), int(judged > first))


def _spanned(body: str, offsets: Sequence[tuple[int, int]]) -> str:
    return body[offsets[0][0] : offsets[-1][1]] if offsets else ""


def _common(lists: Sequence[Sequence[int]]) -> int:
    """Returns how many tokens all lists begin with."""
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*lists, strict=False)))
