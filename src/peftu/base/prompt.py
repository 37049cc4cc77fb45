"""What the base reads (instruction, text, answer marker) and how it may answer (a trie over the label words)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from peftu.base.frame import Frame
from peftu.base.packed import sent
from peftu.data.problem import Text
from peftu.errors import PeftuError

About = Literal["text", "context"]  # what a question is about


@dataclass(frozen=True)
class Prompt:
    """The task as a model is told it.

    Attributes:
        instruction: what to judge; ends in the question.
        words: the word for each label, in label order; none where answers are free text.
        max_tokens: longest text in tokens, its context included; longer ones are cut and counted (`reader.kept`).
        exclusive: one label holds (softmax over the labels), or each holds or not (a logit for each).
        shown: items with their answers, as demonstrations before the text: (body, answer) each.
        answer_tokens: longest free answer in tokens, end token included; longer ones are cut and counted.
        frame: what stands around the parts, as recorded when a module was trained; None: as the base's template has it.
        about: which the question is about, the text or its context: that stays whole as long as it fits.
    """

    LINK: ClassVar[str] = "\n\nReply: "  # joins a context and the text that is judged

    instruction: str
    words: tuple[str, ...]
    max_tokens: int = 256
    exclusive: bool = True
    shown: tuple[tuple[str, str], ...] = ()
    answer_tokens: int = 128
    frame: Frame | None = None
    about: About = "text"

    @classmethod
    def of(cls, stored: dict[str, Any]) -> "Prompt":
        """Returns the prompt that ``dataclasses.asdict`` and JSON made this of; earlier releases stored no frame."""
        frame = stored.get("frame")
        if frame is not None:
            frame = Frame(**{**frame, "pieces": tuple(frame["pieces"])})
        lists = {"words": tuple(stored["words"]), "shown": tuple(map(tuple, stored["shown"]))}
        return cls(**{**stored, **lists, "frame": frame})

    @property
    def free(self) -> bool:
        """Returns whether answers are free text, not labels."""
        return not self.words

    @property
    def columns(self) -> int:
        """Returns how many numbers a read gives a row: a score a label, or an answer's log-likelihood and length."""
        return len(self.words) or 2

    @staticmethod
    def body(text: Text) -> str:
        """Returns the part of the prompt that differs between items."""
        return f"{text.context}{Prompt.LINK}{text.text}" if text.context else text.text


@dataclass(frozen=True)
class TrieNode:
    """A point where label words part.

    Attributes:
        prefix: tokens of the word up to here.
        tokens: the tokens that may follow, one a branch.
        branch: for each label, which branch it takes here, or -1 where its word does not pass here.
    """

    prefix: tuple[int, ...]
    tokens: tuple[int, ...]
    branch: tuple[int, ...]


def label_trie(words: Sequence[Sequence[int]], end: int | None) -> tuple[TrieNode, ...]:
    """Returns the branching points of the label words' token sequences; one alone when first tokens differ.

    A label's log-probability among the labels is the sum, over the nodes its word passes, of the log-softmax over
    that node's branches: the probability that decoding held to the label set would write this word.

    Args:
        words: tokens of each label's word.
        end: token put after every word where one word starts another; None: the base has none.

    Raises:
        PeftuError: two labels have the same tokens, one has none, or one starts another and nothing ends it.
    """
    sequences = [tuple(word) for word in words]
    if not all(sequences) or len(set(sequences)) < len(sequences):
        raise PeftuError("label words: two labels have the same tokens or one has none — give the task other words")
    if any(a != b and b[: len(a)] == a for a in sequences for b in sequences):
        if end is None:
            raise PeftuError(
                "label words: one begins another, and the base has no end token — give the task other words"
            )
        sequences = [(*word, end) for word in sequences]
    prefixes = sorted({word[:n] for word in sequences for n in range(len(word))}, key=lambda p: (len(p), p))
    nodes = []
    for prefix in prefixes:
        following = [word[len(prefix)] if word[: len(prefix)] == prefix else -1 for word in sequences]
        tokens = tuple(dict.fromkeys(token for token in following if token >= 0))
        if len(tokens) > 1:
            nodes.append(TrieNode(prefix, tokens, tuple(tokens.index(t) if t >= 0 else -1 for t in following)))
    return tuple(nodes)


def trie_scores(nodes: Sequence[TrieNode], logits: Sequence[Tensor], exclusive: bool) -> Tensor:
    """Returns [rows, labels] log-probabilities among the labels, or one logit a label when they do not exclude.

    Args:
        nodes: the trie.
        logits: for each node, [rows, branches] float32.
        exclusive: True: log-softmax at each node. False: logits around their mean, so labels do not compete.
    """
    total = logits[0].new_zeros(len(logits[0]), len(nodes[0].branch))
    for node, logits_rk in zip(nodes, logits, strict=True):
        branch = sent(torch.tensor(node.branch), logits_rk.device)
        part = logits_rk.log_softmax(-1) if exclusive else logits_rk - logits_rk.mean(-1, keepdim=True)
        total = total + part[:, branch.clamp(min=0)] * (branch >= 0)
    return total
