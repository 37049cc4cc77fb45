"""How long a prompt a base can read, texts cut to length, and which tokens of a prompt lie in a region."""

from collections.abc import Sequence

from peftu.base.model import FrozenBase
from peftu.base.prompt import About, Prompt
from peftu.base.reader import Cuts
from peftu.base.region import Region
from peftu.data.problem import Text
from peftu.errors import PeftuError


def reading_limit(base: FrozenBase) -> int | None:
    """Returns the longest prompt of a base, in tokens; None where it sets no limit.

    Raises:
        PeftuError: the base is an encoder, which reads a text and no prompt.
    """
    if not base.family.writers:
        raise PeftuError(f"base {base.name}: an encoder reads no prompt — use a decoder or an encoder-decoder")
    return base.family.limit()


def prompt_tokens(base: FrozenBase, prompt: Prompt) -> int:
    """Returns the tokens of a prompt with the longest text that it allows and the longest answer.

    Raises:
        PeftuError: the base is an encoder, which reads a text and no prompt.
    """
    reading_limit(base)
    return base.family.taken(prompt) + prompt.max_tokens


def invocation(base: FrozenBase, prompt: Prompt, region: Region) -> list[int]:
    """Returns a decoder's tokens between text and answer that lie in a region; of another family: none."""
    return base.family.invocation(prompt, region)


def clipped(base: FrozenBase, texts: Sequence[Text], max_tokens: int, about: About = "text") -> list[str]:
    """Returns the texts with their contexts as plain strings, cut to so many tokens as a judged text is."""
    return base.family.reader.clipped(texts, max_tokens, about)


def cuts_line(name: str, cuts: Cuts, texts: int, prompt: Prompt) -> str:
    """Returns what is said of texts that are too long for a base."""
    beside, judged = ("reply", "context") if prompt.about == "context" else ("context", "text")
    parts = [f"{cuts.beside} lose part of their {beside}, not of the {judged} that is judged"] if cuts.beside else []
    parts += [f"{cuts.judged} lose the end of the {judged} that is judged"] if cuts.judged else []
    return f"{name} reads {prompt.max_tokens} tokens of a text at most: of {texts} texts, {'; '.join(parts)}"
