"""Answers in people's own words: their tokens, how likely a base finds them, and what a family must do to write them.

Shape letters: n answers, b rows, t tokens of all rows end to end, s tokens a row, d width, v vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function

from peftu.base.families.family import Context, Progress
from peftu.base.finish import Finish
from peftu.base.packed import Packed, ranges, sent
from peftu.base.prompt import Prompt
from peftu.base.region import Region
from peftu.data.problem import Text
from peftu.errors import PeftuError

LOGIT_BYTES = 64 << 20  # of the float32 logits over the vocabulary that are held at once


class Answer(NamedTuple):
    """What somebody wrote about a text."""

    text: int  # number of the text among those that are prefilled with it
    words: str


@dataclass(frozen=True)
class AnswerTokens:
    """Answers as the tokens to be predicted, each with the end token unless it was cut.

    Attributes:
        lists: tokens of each answer, at least one.
        cut: answers that were longer than allowed.
    """

    lists: list[list[int]]
    cut: int

    @classmethod
    def of(cls, words: Sequence[Sequence[int]], end: int | None, most: int) -> "AnswerTokens":
        """Returns the answers' tokens, at most ``most`` each; a cut answer has no end to be learned.

        Raises:
            PeftuError: an answer is empty, and the base has no end token that would say so.
        """
        ending = [] if end is None else [end]
        whole = [[*tokens, *ending] for tokens in words]
        if not all(whole):
            raise PeftuError("an answer is empty, and the base has no end token to learn — leave empty answers out")
        return cls([tokens[:most] for tokens in whole], sum(len(tokens) > most for tokens in whole))

    def packed(self, device: torch.device) -> Packed:
        """Returns the tokens end to end."""
        return Packed.of([torch.tensor(tokens, device=device) for tokens in self.lists])


class Draft(Protocol):
    """Answers being written: all that was read and written so far, for b rows in one cache."""

    def keep(self, rows: Tensor) -> None:
        """Makes these rows, in this order, the draft's rows; one may stand twice."""
        ...


class Writer(Protocol):
    """How a family reads given answers and writes new ones; ``vocabulary`` is how many tokens it knows.

    Modules act through the hooks of the ``attached`` block that the caller has open.
    """

    vocabulary: int

    def prefill(
        self, prompt: Prompt, texts: Sequence[Text], answers: Sequence[Answer], region: Region, progress: Progress
    ) -> Context:
        """Returns the context of the answers, whose rows are answer numbers; each text is read once."""
        ...

    def hidden(self, context: Context, rows: Tensor, attachment: Any) -> Tensor:
        """Returns [t, d] the states that predict the answers' tokens, row after row, scaled for the output matrix."""
        ...

    def begin(
        self, prompt: Prompt, texts: Sequence[Text], most: int, region: Region, attachment: Any
    ) -> tuple[Draft, Tensor]:
        """Returns a draft for each text, with room for ``most`` tokens, and what each is to read first [texts, s]."""
        ...

    def next(self, draft: Any, tokens: Tensor, attachment: Any) -> Tensor:
        """Returns [b, d] the states that predict the token after these [b, s], which the draft then holds."""
        ...


class _LogLikelihood(Function):
    """Log-probabilities of tokens, a chunk of the vocabulary's logits at a time.

    The output matrix is frozen, so all that backward needs is one vector a token, made with the logits at hand.
    """

    @staticmethod
    def forward(
        ctx: Any, h_td: Tensor, target_t: Tensor, weight_vd: Tensor, bias_v: Tensor | None, finish: Finish
    ) -> Tensor:
        out_t = torch.empty(len(h_td), device=h_td.device)
        slope_td = torch.empty_like(h_td) if ctx.needs_input_grad[0] else None
        chunk = max(1, LOGIT_BYTES // (4 * len(weight_vd)))
        for first in range(0, len(h_td), chunk):
            part = slice(first, first + chunk)
            logits_tv = (h_td[part] @ weight_vd.T).float()
            if bias_v is not None:
                logits_tv += bias_v.float()
            logits_tv = finish(logits_tv)
            slope_tv = finish.slope(logits_tv)
            norm_t, target = logits_tv.logsumexp(-1, keepdim=True), target_t[part, None]
            out_t[part] = (logits_tv.gather(1, target) - norm_t)[:, 0]
            if slope_td is not None:
                # d log p(target) / d h = W[target] - softmax · W, each row of W as steep as the finish is there
                share_tv = logits_tv.sub_(norm_t).exp_().neg_()
                share_tv.scatter_add_(1, target, torch.ones_like(norm_t))
                share_tv = share_tv if slope_tv is None else share_tv.mul_(slope_tv)
                slope_td[part] = share_tv.to(weight_vd.dtype) @ weight_vd
        ctx.save_for_backward(slope_td)
        return out_t

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        (slope_td,) = ctx.saved_tensors
        return slope_td * grad[:, None].to(slope_td.dtype), None, None, None, None


def log_likelihood(h_td: Tensor, target_t: Tensor, head: nn.Module, finish: Finish) -> Tensor:
    """Returns [t] float32 log-probabilities of the tokens among the whole vocabulary; at most `LOGIT_BYTES` at once."""
    bias = cast("Tensor | None", getattr(head, "bias", None))
    return cast(Tensor, _LogLikelihood.apply(h_td, target_t, head.weight, bias, finish))  # type: ignore[no-untyped-call]


def summed(token_t: Tensor, lengths: Tensor) -> Tensor:
    """Returns [b, 2] each row's sum over its tokens, and how many these are; the processor has the lengths."""
    _, row = ranges(torch.zeros_like(lengths), lengths, token_t.device)
    total = token_t.new_zeros(len(lengths)).index_add(0, row, token_t)
    return torch.stack([total, sent(lengths.float(), token_t.device)], 1)
