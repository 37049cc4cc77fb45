"""What stands around the parts of a prompt, as the base's own chat template writes it: rendered once, then kept.

A template is rendered with a mark in the place of each part, so that what it does with a part shows: one that is lost,
told twice or out of order is a template that cannot be used that way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from string import ascii_letters
from typing import Any

from peftu.errors import PeftuError

DAY = datetime(2024, 7, 26)
_THINKING = "<think>"


@dataclass(frozen=True)
class Frame:
    """The strings between the parts of a prompt: instruction, then text and answer of each item shown, then the text.

    Attributes:
        pieces: before, between and behind the parts; one more than there are parts.
        lead: white space between the prompt and an answer.
        end: what follows an answer; empty where nothing is known to.
        trims: the template takes white space off both ends of a turn.
        joined: the instruction stands in the first text's turn, having none of its own.
    """

    pieces: tuple[str, ...]
    lead: str
    end: str = ""
    trims: bool = False
    joined: bool = False

    def trimmed(self, parts: Sequence[str]) -> list[str]:
        """Returns a prompt's parts, but for the text, as the template writes them."""
        if not self.joined:
            return [part.strip() for part in parts]
        instruction, *rest = parts  # nothing is taken off between it and the text in its turn
        return [instruction.lstrip(), *(part.strip() if place else part.rstrip() for place, part in enumerate(rest))]


def framed(tokenizer: Any, shown: int) -> Frame:
    """Returns the frame of a decoder's prompt with so many items shown.

    Raises:
        PeftuError: the tokenizer's chat template fails, or loses a part of the prompt.
    """
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        return plain_frame(shown, tokenizer.bos_token or "", answer="\nAnswer:")
    if not isinstance(template, str):
        raise PeftuError("base: has several chat templates — keep one in its tokenizer")
    return _rendered(_Template(tokenizer), template, str(tokenizer.special_tokens_map), shown)


def plain_frame(shown: int, begin: str = "", answer: str = "") -> Frame:
    """Returns the frame of a prompt without a chat template.

    Args:
        shown: number of items shown.
        begin: what a prompt begins with.
        answer: what stands between the text and its answer.
    """
    return Frame((begin, "\n\n", *("\nAnswer: ", "\n\n") * shown, answer), " " if answer else "")


class _Template:
    """A tokenizer's chat template; equal to any other, so that the cache goes by what is passed beside it."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Template)

    def __hash__(self) -> int:
        return 0

    def pieces(self, parts: Sequence[str], system: bool, answered: bool = False) -> tuple[str, ...] | str:
        """Returns the strings around the parts, or why there are none.

        Args:
            parts: a mark for the instruction, for text and answer of each item, and for the text; with ``answered``
                also for its answer.
            system: the instruction has a turn of its own; else it stands in the first text's.
            answered: the chat ends with the answer, and is not about to be answered.
        """
        instruction, *rest = parts
        turns = [{"role": ("user", "assistant")[place % 2], "content": part} for place, part in enumerate(rest)]
        if system:
            turns.insert(0, {"role": "system", "content": instruction})
        else:
            turns[0] = {"role": "user", "content": f"{instruction}\n\n{rest[0]}"}
        try:
            chat = self.tokenizer.apply_chat_template(
                turns,
                tokenize=False,
                add_generation_prompt=not answered,
                enable_thinking=False,
                chat_template=_on_one_day(self.tokenizer.chat_template),
            )
        except Exception as error:  # noqa: BLE001  (a template raises what it likes)
            return (str(error).strip().splitlines() or [type(error).__name__])[0]
        pieces = []
        for part in parts:
            if chat.count(part) != 1:
                which = "the instruction" if part == instruction else "a text or an answer"
                return f"it {'repeats' if part in chat else 'leaves out or rearranges'} {which}"
            piece, _, chat = chat.partition(part)
            pieces.append(piece)
        return (*pieces, chat)


@lru_cache(maxsize=256)
def _rendered(template: _Template, _: str, __: str, shown: int) -> Frame:
    marks = [_mark(number) for number in range(2 * shown + 2)]
    for system in (True, False):
        pieces = template.pieces(marks, system)
        if not isinstance(pieces, str):
            break
    else:
        raise PeftuError(f"base: its chat template cannot hold this prompt ({pieces}) — give its tokenizer another")
    padded = template.pieces([*marks[:-1], f"\t{marks[-1]}\t"], system)  # found with its white space, or not at all
    tail, lead, end = _answer(template, marks, system, pieces[-1])
    return Frame((*pieces[:-1], tail), lead, end, isinstance(padded, str), not system)


def _answer(template: _Template, marks: list[str], system: bool, tail: str) -> tuple[str, str, str]:
    """Returns what stands before an answer, white space between the two, and what the template writes after it."""
    answered = [*marks, _mark(len(marks))]
    pieces = template.pieces(answered, system, answered=True)
    if isinstance(pieces, str):  # some write the system's words only before a turn that awaits its answer
        pieces = template.pieces(answered, system=False, answered=True)
    between, after = ("", "") if isinstance(pieces, str) else pieces[-2:]
    lead = between.removeprefix(tail) if between.startswith(tail) else ""
    if not lead.isspace():  # an empty thought, or the mark of what is none, which comes before every answer
        tail, lead = tail + lead, ""
    spaces = tail[len(tail.rstrip(" ")) :]  # tokenizers join a space to the word that follows it
    return _closed(tail).rstrip(" "), spaces + lead, after


def _closed(tail: str) -> str:
    """Returns what invites the answer, thinking that it has begun being ended: labels are not read out of thoughts."""
    begun = tail.rfind(_THINKING)
    return tail if begun < 0 or "</think>" in tail[begun:] else f"{tail.rstrip()}\n\n</think>\n\n"


def _on_one_day(template: str) -> str:
    """Returns a template that writes the same date on every day."""
    if "strftime_now" not in template:
        return template
    codes = [f"%{dash}{letter}" for dash in ("-", "") for letter in ascii_letters]
    day = "".join(f" | replace({code!r}, {DAY.strftime(code)!r})" for code in codes)
    return f"{{%- macro strftime_now(format) -%}}{{{{ format{day} }}}}{{%- endmacro -%}}{template}"


def _mark(number: int) -> str:
    return f"\u241f{number}\u241f"  # a character no template holds
