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
from peftu.base.prompt import About, Prompt
from peftu.data.problem import Text
from peftu.errors import PeftuError

PROBES = ("x", "", "x.", "x!?", "x\n", "x ", "\n", " ", "1", "é", "…", "\u4e00")  # what a text may end in


class Cuts(NamedTuple):
    """How many texts were longer than allowed.

    Attributes:
        judged: what the question is about lost its end.
        beside: what stands beside it lost a part, or all.
    """

    judged: int = 0
    beside: int = 0


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
        """Returns the tokens of each text's prompt, the text cut to ``prompt.max_tokens``; see `kept`."""
        frame = self.frame(prompt)
        before, after = self._before(frame, prompt), self._named(frame.pieces[-1])
        alone = bool(prompt.shown) or not frame.joined  # in its turn
        texts = [_trimmed(text, alone) for text in texts] if frame.trims else texts
        return self._read(before, after, texts, prompt.max_tokens, prompt.about, trims=frame.trims and not alone)

    def bodies(self, texts: Sequence[Text], max_tokens: int, about: About = "text", before: str = "") -> Reading:
        """Returns the tokens of texts without a prompt, cut to so many, those that the tokenizer adds included.

        Args:
            texts: the texts.
            max_tokens: of each, with what stands before it.
            about: which part of a text stays longest.
            before: stands in front of every text, and is never cut.
        """
        added = len(self._encoded([before], special=not self.continues)[0].ids)
        return self._read(before, "", texts, max(1, max_tokens - added), about)

    def check_words(self, words: Sequence[str]) -> None:
        """Checks that label words can be told in the base's tokens.

        Raises:
            PeftuError: the tokenizer has no token for a character of one.
        """
        unknown = self.tokenizer.unk_token_id
        for word, encoded in zip(words, self._encoded(words), strict=True):
            covered = {place for start, end in encoded.offsets for place in range(start, end)}
            left_out = any(not letter.isspace() and place not in covered for place, letter in enumerate(word))
            if left_out or (unknown is not None and unknown in encoded.ids):
                what = f"the base's tokenizer lacks characters of '{word}'"
                raise PeftuError(f"label words: {what} — give the task other words")

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
            raise PeftuError("base: no token stands between a text and its answer — give its tokenizer a chat template")
        return Ending(whole[len(whole) - fixed : shared], dropped, [ids[shared:] for ids in answered])

    def answers(self, prompt: Prompt, answers: Sequence[str]) -> list[list[int]]:
        """Returns the tokens of free answers behind a prompt."""
        frame = self.frame(prompt)
        whole, *answered = self._answered(frame, answers)
        return [  # one that is joined to the prompt's end is cut by itself
            ids[len(whole) :] if ids[: len(whole)] == whole else self.alone([frame.lead + answer])[0]
            for ids, answer in zip(answered, answers, strict=True)
        ]

    def opening(self, prompt: Prompt) -> list[int]:
        """Returns the tokens that stand before a text."""
        reading = self.read(prompt, [Text("x")])
        return reading.lists[0][: reading.head]

    def clipped(self, texts: Sequence[Text], max_tokens: int, about: About = "text") -> list[str]:
        """Returns the texts with their contexts as plain strings, cut as `read` cuts them."""
        bodies = [Prompt.body(text) for text in texts]
        strings = []
        for text, body, encoded in zip(texts, bodies, self._encoded(bodies), strict=True):
            places, _ = kept(encoded.offsets, 0, text, max_tokens, about)
            whole = len(places) == len(encoded.ids)
            strings.append(body if whole else _spanned(body, [encoded.offsets[place] for place in places]))
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
        parts = frame.trimmed(parts) if frame.trims else parts
        return "".join(piece + part for piece, part in zip(pieces, [*parts, ""], strict=True))

    def _answered(self, frame: Frame, answers: Sequence[str]) -> list[list[int]]:
        """Returns the tokens of a short prompt's end alone, and with each answer behind it."""
        end = f"{self._named(frame.pieces[-2])}x{self._named(frame.pieces[-1])}"
        return [encoded.ids for encoded in self._encoded([end, *(end + frame.lead + answer for answer in answers)])]

    def _read(  # ``trims``: nothing is left of the white space before a text that is empty
        self, before: str, after: str, texts: Sequence[Text], most: int, about: About, trims: bool = False
    ) -> Reading:
        lists, heads, judged, beside = [], [], 0, 0
        bodies = [Prompt.body(text) for text in texts]
        begins = [before if body or not trims else before.rstrip() for body in bodies]
        prompts = [start + body + after for start, body in zip(begins, bodies, strict=True)]
        encodings = self._encoded(prompts, special=not self.continues)
        for text, start, encoded in zip(texts, begins, encodings, strict=True):
            ids, offsets, begin = encoded.ids, encoded.offsets, len(start)
            places, cuts = kept(offsets, begin, text, most, about)
            lists.append([ids[place] for place in places] if any(cuts) else ids)
            heads.append(next((place for place, (_, end) in enumerate(offsets) if end > begin), len(ids)))
            judged, beside = judged + cuts.judged, beside + cuts.beside
        head = min([_common(lists), *heads]) if lists else 0
        return Reading(lists, head, Cuts(judged, beside))

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
        names = self._backend[1]
        return self._control.sub(lambda match: names[match.group()], piece) if names else piece

    @cached_property
    def _control(self) -> re.Pattern[str]:
        """Returns what finds control tokens by their usual names, the longest first."""
        return re.compile("|".join(re.escape(name) for name in sorted(self._backend[1], key=len, reverse=True)))

    @cached_property
    def _backend(self) -> tuple[Tokenizer, dict[str, str]]:
        """Returns a tokenizer whose control tokens have names that no text can hold, and these names by the usual."""
        state = backend_state(self.tokenizer.backend_tokenizer)
        nonce, names = secrets.token_hex(8), {}
        template = str(getattr(self.tokenizer, "chat_template", None) or "")
        for token in state["added_tokens"]:
            # Some bases' turn marks and thoughts are not marked special; their template names them.
            if token["special"] or (token["content"].startswith(("<", "[")) and token["content"] in template):
                names[token["content"]] = token["content"] = f"<|{nonce}{token['id']}|>"
        model = state["model"]
        if isinstance(model["vocab"], dict):
            model["vocab"] = {names.get(piece, piece): number for piece, number in model["vocab"].items()}
        else:
            model["vocab"] = [[names.get(piece, piece), weight] for piece, weight in model["vocab"]]
        if model.get("unk_token") in names:
            model["unk_token"] = names[model["unk_token"]]
        return Tokenizer.from_str(json.dumps(state)), names


def backend_state(backend: Tokenizer) -> dict[str, Any]:
    """Returns all that decides how a text is cut into tokens, but for what the last call left switched on."""
    return {**json.loads(backend.to_str()), "truncation": None, "padding": None}


def _trimmed(text: Text, alone: bool) -> Text:
    """Returns a text as a template writes it that takes white space off the ends of the text's turn."""
    if text.context:
        return Text(text.text.rstrip(), text.context.lstrip() if alone else text.context)
    return Text(text.text.strip() if alone else text.text.rstrip(), text.context)


def kept(
    offsets: Sequence[tuple[int, int]], begin: int, text: Text, most: int, about: About = "text"
) -> tuple[list[int], Cuts]:
    """Returns which tokens are read so that at most ``most`` are the body's, and what was cut.

    What the question is about stays whole as long as it fits. What stands beside it loses the end that is farther from
    it: a context its beginning, a text its end; then all of it goes. Only then the other is cut at its end.

    Args:
        offsets: [tokens] first character and end of each.
        begin: first character of the body.
        text: the text, with its context.
        most: tokens of the body at most.
        about: which of them the question is about; a text without a context is it in any case.
    """
    body, places = Prompt.body(text), range(len(offsets))
    end = begin + len(body)

    def of_body(place: int) -> bool:
        first, stop = offsets[place]
        if first >= end or stop <= begin:
            return False
        # A token of the frame may take white space of the text along: a turn's mark, a joined line break.
        across = first < begin or stop > end
        return not (across and body[max(0, first - begin) : stop - begin].isspace())

    inside = [place for place in places if of_body(place)]
    if len(inside) <= most:
        return list(places), Cuts()
    context_end, text_begin = begin + len(text.context or ""), end - len(text.text)
    context = [place for place in inside if text.context and offsets[place][0] < context_end]
    judged = [place for place in inside if offsets[place][1] > text_begin]
    backwards = about == "context" and bool(text.context)
    beside, protected = (judged, context) if backwards else (context, judged)
    if most > len(inside) - len(beside):  # some of what stands beside it fits, and what joins the two
        chosen, cuts = inside[:most] if backwards else inside[-most:], Cuts(beside=1)
    else:
        chosen = protected[:most]
        cuts = Cuts(int(len(protected) > most), int(len(beside) > 0))
    return [*range(inside[0]), *chosen, *range(inside[-1] + 1, len(offsets))], cuts


def _spanned(body: str, offsets: Sequence[tuple[int, int]]) -> str:
    return body[offsets[0][0] : offsets[-1][1]] if offsets else ""


def _common(lists: Sequence[Sequence[int]]) -> int:
    """Returns how many tokens all lists begin with."""
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*lists, strict=False)))
