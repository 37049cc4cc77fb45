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

    A free answer may hold every token but those that no text is cut into: the control tokens, save those at its end.

    Args:
        base: a decoder.
        prompt: the task.
        invocation: the tokens before the answer that lie in the module's region.
    """
    family = cast(Any, base.family)
    if prompt.free:
        return not set(invocation) & (_control_tokens(family.tokenizer) - _end_tokens(family))
    begins = list(invocation)
    _, _, words = family.frame(prompt)
    return any(
        [*begins, *word][start : start + len(begins)] == begins for word in words for start in range(1, len(word) + 1)
    )


def _control_tokens(tokenizer: Any) -> set[int]:
    return {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}


def _end_tokens(family: Any) -> set[int]:
    ends = getattr(getattr(family.model, "generation_config", None), "eos_token_id", None)
    return {family.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
