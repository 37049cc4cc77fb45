"""Whether peft finds again where a module begins to act.

Its activated LoRA looks for the invocation's tokens in all that is read, prompt and answer, and acts from the place
where they stand last.
"""

from collections.abc import Sequence
from typing import Any, cast

from peftu.base.model import FrozenBase
from peftu.base.prompt import Prompt


def may_recur(base: FrozenBase, prompt: Prompt, invocation: Sequence[int]) -> bool:
    """Returns whether an answer may hold the invocation, so that peft would take a later place for it.

    A free answer may hold every token but the control tokens, which no text is cut into; it may end in some of these.

    Args:
        base: a decoder.
        prompt: the task.
        invocation: the tokens before the answer that lie in the module's region.
    """
    family = cast(Any, base.family)
    if prompt.free:
        control = {number for number, token in family.tokenizer.added_tokens_decoder.items() if token.special}
        return not set(invocation) & (control - family.ends)
    begins = list(invocation)
    return any(
        [*begins, *word][start : start + len(begins)] == begins
        for word in family.reader.ending(prompt).words
        for start in range(1, len(word) + 1)
    )
