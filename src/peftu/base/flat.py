"""Rows of many users run end to end as one: no work is done on padding, and what a user's rows begin with is run once.

Shape letters: g groups (users), r rows, l tokens of the longest row, h head tokens, n heads, k heads of keys, w width.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import pad, scaled_dot_product_attention

from peftu.base.finish import capped
from peftu.base.manner import Manner
from peftu.base.packed import Ragged, gather_once, ranges, sent, spread_heads

ROWS_A_BUCKET = 16  # each bucket has products of its own; not tuned
MOST_BUCKETS = 8
WRITTEN_OUT = 128  # queries; the fused kernel's backward pass took 17 % of SmolLM2's step and 54 % of MiniLM's


class _Keys(Function):
    """Keys or values where each row needs them: its own once, its group's head once for each row of the group.

    The gradient is a gather and a sum over the rows of a group, not a slow scatter.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, back: Tensor, shared: Tensor, heads: Tensor) -> Tensor:
        ctx.save_for_backward(back, shared, heads)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        back, shared, heads = ctx.saved_tensors
        grad_in = grad.index_select(0, back)
        if shared.numel():
            rows = grad.index_select(0, shared.flatten()).view(*shared.shape, -1).sum(1)
            grad_in[heads] += rows
        return grad_in, None, None, None, None


@dataclass(frozen=True)
class _Piece:
    """Rows of like length (or the heads themselves), padded to the longest.

    Attributes:
        place: [r, l] where their tokens stand; behind a row's end, its last.
        real: [r, l] which are tokens.
        seen: [r, h + l] where the tokens stand that they may look at.
    """

    place: Tensor
    real: Tensor
    seen: Tensor


@dataclass(frozen=True)
class _Grid:
    """Where tokens of segments are among the pieces' cells: `cells` says it of the tokens' heads.

    Attributes:
        first: [segments] cells, of one head, before the segment's row of its piece.
        width: [segments] cells of one head in that row.
        shift: [segments] those of them that stand before the segment's own tokens.
    """

    first: Tensor
    width: Tensor
    shift: Tensor

    def cells(self, heads: int, which: Tensor, step: Tensor) -> Tensor:
        """Returns [m × n] the cells of tokens' heads, given the tokens' segments and steps in these, both [m]."""
        first, width, shift = (x.index_select(0, which)[:, None] for x in (self.first, self.width, self.shift))
        return (first * heads + shift + step[:, None] + width * torch.arange(heads, device=step.device)).flatten()


@dataclass(frozen=True)
class _Plan:
    """Where each head of each token is read for a piece's products, and where the results go back."""

    query: Tensor
    query_back: Tensor
    void: Tensor | None
    key: Tensor
    key_back: Tensor
    shared: Tensor
    heads: Tensor


class Flat:
    """R rows in G equal groups, laid end to end: each group's head, then its rows.

    A causal model's states of the head do not depend on what follows, so one head serves all rows of a group.

    Args:
        lengths: [R] tokens of each row behind the head, at least one; on the processor.
        groups: G.
        device: where the rows lie.
        head: tokens of the head, the same number for every group; 0: none.
        causal: a token looks at itself and earlier ones only; else at its whole row (and there is no head).

    Attributes:
        tokens: the groups as segments: [G] heads and rows together.
        last: [R] the place of each row's last token.
    """

    def __init__(self, lengths: Tensor, groups: int, device: torch.device, head: int = 0, causal: bool = True) -> None:
        per_group, rows = lengths.view(groups, -1), len(lengths)
        self.causal, self.head, self._lengths = causal, head, lengths
        self.tokens = Ragged(head + per_group.sum(1), device)
        segments = pad(per_group, (1, 0), value=head).flatten()
        start = (segments.cumsum(0) - segments).view(groups, -1)
        buckets = max(1, min(MOST_BUCKETS, rows // ROWS_A_BUCKET))
        order = lengths.argsort(stable=True) if buckets > 1 else torch.arange(rows)
        longest = [int(part.max()) for part in lengths[order].chunk(buckets)]
        row_start, back, group = start[:, 1:].flatten(), order.argsort(), order // per_group.shape[1]
        about = torch.stack([order, back, row_start + lengths - 1, row_start[order], lengths[order], group])
        self._rows, self._order, self.last, *by_order = sent(about, device)
        # The heads are a piece of their own, behind the rows'.
        self._heads = sent(start[:, :1], device) + torch.arange(head, device=device)
        self._pieces = []
        for most, place, length, of in zip(longest, *(x.chunk(buckets) for x in by_order), strict=True):
            step = torch.arange(most, device=device)
            place = place[:, None] + torch.minimum(step, length[:, None] - 1)
            self._pieces.append(_Piece(place, step < length[:, None], torch.cat([self._heads[of], place], 1)))
        if head:
            self._pieces.append(_Piece(self._heads, torch.ones_like(self._heads, dtype=torch.bool), self._heads))
        # Where each segment is in them; they are as wide as their longest row.
        width = torch.cat([x.new_full(x.shape, most) for most, x in zip(longest, order.chunk(buckets), strict=True)])
        first, end = (width.cumsum(0) - width)[back], int(width.sum())
        self._width = width = width[back]
        of_rows = torch.stack([first, width, 0 * width, first + head * back, width + head, 0 * width + head])
        first = end + head * torch.arange(groups)
        whole = torch.full_like(first, head)
        of_heads = torch.stack([first, whole, 0 * whole, first + head * rows, whole, 0 * whole])
        grids = sent(torch.cat([of_heads[..., None], of_rows.view(6, groups, -1)], 2).flatten(1), device)
        self._queries, self._keys = _Grid(*grids[:3]), _Grid(*grids[3:])
        self._step, self._segment = ranges(torch.zeros_like(segments), segments, device)
        self._plans: dict[tuple[int, int], _Plan] = {}
        self._known_masks: dict[int | None, list[Tensor | None]] = {}

    def spread(self, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Returns where each token comes from and its position in its sequence, both [tokens].

        Args:
            starts: [R] where each row's own tokens begin, on the processor; a head begins at 0.
        """
        begins = pad(starts.view(len(self._heads), -1), (1, 0))
        positions = pad(torch.full_like(begins[:, 1:], self.head), (1, 0))
        first = sent(torch.stack([begins.flatten(), positions.flatten()]), self._step.device)
        source, position = first[:, self._segment] + self._step
        return source, position

    # --- attention ----------------------------------------------------------------------------------------------

    def attend(self, query: Tensor, key: Tensor, value: Tensor, manner: Manner) -> Tensor:
        """Returns [1, tokens, n, w] attention of each row over its group's head and itself.

        Args:
            query: [1, n, tokens, w].
            key: [1, k, tokens, w].
            value: [1, k, tokens, w].
            manner: how; a window counts where the attention is causal, a bias [1, n or 1, head + l, head + l] is one.
        """
        heads, kinds, width = query.shape[1], key.shape[1], query.shape[3]
        plan = self._plan(heads, kinds)
        folded = gather_once(_by_head(query), plan.query, plan.query_back)
        queries = torch.split(folded, [piece.place.numel() * heads for piece in self._pieces])
        out = []
        for piece, q, (k, v), bias in zip(
            self._pieces, queries, self._seen(plan, key, value), self._biases(query.dtype, manner), strict=True
        ):
            rows, tokens = piece.place.shape
            q, k, v = (x.view(rows * kinds, -1, width) for x in (q, k, v))
            out.append(_mix(q, k, v, _folded(bias, rows, kinds, heads, tokens), manner, kinds).view(-1, width))
        return gather_once(torch.cat(out), plan.query_back, plan.query, plan.void).view(1, -1, heads, width)

    def attend_last(self, query: Tensor, key: Tensor, value: Tensor, manner: Manner) -> Tensor:
        """Returns [1, R, n, w] attention of the rows' last tokens alone, given [1, n, R, w] their queries."""
        heads, kinds, width = query.shape[1], key.shape[1], query.shape[3]
        ordered = query[0].transpose(0, 1).index_select(0, self._rows)
        pieces = [piece for piece in self._pieces if piece.place is not self._heads]
        queries = torch.split(ordered, [len(piece.place) for piece in pieces])
        out = []
        for piece, q, (k, v) in zip(pieces, queries, self._seen(self._plan(heads, kinds), key, value), strict=False):
            rows = len(piece.place)
            seen = pad(piece.real, (self.head, 0), value=True)
            if self.causal and manner.window is not None:
                step = torch.arange(seen.shape[1], device=seen.device)
                seen = seen & (step >= seen.sum(1, keepdim=True) - manner.window)
            bias = _closed(seen, query.dtype)[:, None, None]
            q, k, v = (x.reshape(rows * kinds, -1, width) for x in (q, k, v))
            out.append(_mix(q, k, v, _folded(bias, rows, kinds, heads, 1), manner, kinds).view(-1, heads, width))
        return torch.cat(out).index_select(0, self._order)[None]

    def _seen(self, plan: _Plan, key: Tensor, value: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Returns the keys and values that each piece looks at, each [r × k × (h + l), w]."""
        sizes = [piece.seen.numel() * key.shape[1] for piece in self._pieces]
        parts = []
        for x in (key, value):
            picked = _Keys.apply(_by_head(x), plan.key, plan.key_back, plan.shared, plan.heads)  # type: ignore[no-untyped-call]
            parts.append(torch.split(cast(Tensor, picked), sizes))
        return list(zip(*parts, strict=True))

    def _plan(self, heads: int, kinds: int) -> _Plan:
        """Returns the gathers for a layer with so many heads, of which so many have keys of their own."""
        if (heads, kinds) not in self._plans:
            query = torch.cat([spread_heads(piece.place, heads) for piece in self._pieces])
            key = torch.cat([spread_heads(piece.seen, kinds) for piece in self._pieces])
            device, void = key.device, None
            rows = torch.arange(len(self._queries.first), device=device).view(len(self._heads), -1)[:, 1:].flatten()
            if not self._even:
                step, row = ranges(self._lengths, self._width - self._lengths, device)
                void = self._queries.cells(heads, rows[row], step)
            ahead = torch.arange(-self.head, 0, device=device).repeat(len(rows))
            in_front = self._keys.cells(kinds, rows[:, None].expand(-1, self.head).flatten(), ahead)
            self._plans[heads, kinds] = _Plan(
                query, self._queries.cells(heads, self._segment, self._step), void,
                key, self._keys.cells(kinds, self._segment, self._step),
                in_front.view(len(self._heads), len(rows) // len(self._heads), self.head * kinds),
                (self._heads[..., None] * kinds + torch.arange(kinds, device=device)).flatten(1),
            )  # fmt: skip
        return self._plans[heads, kinds]

    @property
    def _even(self) -> bool:
        """Returns whether no piece has places behind a row's end."""
        return bool((self._width == self._lengths).all())

    def _masks(self, window: int | None) -> list[Tensor | None]:
        """Returns for each piece which tokens may be looked at, [r or 1, l or 1, h + l]; None: all."""
        if window in self._known_masks:
            return self._known_masks[window]
        masks: list[Tensor | None] = self._known_masks.setdefault(window, [])
        for piece in self._pieces:
            (tokens, seen), device = (piece.real.shape[1], piece.seen.shape[1]), piece.real.device
            if self.causal:  # what stands behind a row's end is behind all its tokens
                mask = torch.ones(1, tokens, seen, dtype=torch.bool, device=device).tril(seen - tokens)
                masks.append(mask if window is None else mask.triu(seen - tokens - window + 1))
            else:
                masks.append(None if self._even else piece.real[:, None])
        return masks

    def _biases(self, dtype: torch.dtype, manner: Manner) -> list[Tensor | None]:
        """Returns what is added to each piece's logits, [r or 1, n or 1, l or 1, h + l]."""
        masks = [None if mask is None else _closed(mask, dtype)[:, None] for mask in self._masks(manner.window)]
        if not isinstance(manner.bias, Tensor):
            return masks
        ends = [piece.seen.shape[1] for piece in self._pieces]
        starts = [end - piece.place.shape[1] for end, piece in zip(ends, self._pieces, strict=True)]
        by_place = [manner.bias[:, :, start:end, :end].to(dtype) for start, end in zip(starts, ends, strict=True)]
        return [bias if closed is None else bias + closed for bias, closed in zip(by_place, masks, strict=True)]


def _by_head(x: Tensor) -> Tensor:
    """Returns [tokens × n, w] from [1, n, tokens, w]: a view of what a layer makes."""
    return x[0].transpose(0, 1).reshape(-1, x.shape[-1])


def _closed(real: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns 0 where real, else -inf."""
    return torch.zeros(real.shape, dtype=dtype, device=real.device).masked_fill(~real, -torch.inf)


def _folded(bias: Tensor | None, rows: int, kinds: int, heads: int, tokens: int) -> Tensor | None:
    """Returns [rows × k, n/k × l or 1, m] from [rows or 1, n or 1, l or 1, m]: heads that share keys are folded."""
    if bias is None:
        return None
    wide = bias.expand(rows, heads, tokens if heads > kinds else -1, -1)
    return wide.reshape(rows * kinds, -1, bias.shape[-1])


def _mix(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, manner: Manner, kinds: int) -> Tensor:
    """Returns [r × k, q, w] attention of queries over [r × k, m, w] keys and values, of k kinds.

    For short rows the products are written out: on a processor the fused kernel's backward pass takes far longer.
    """
    if query.shape[1] > WRITTEN_OUT and manner.plain:
        mask = None if bias is None else bias.expand(-1, query.shape[1], -1)
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=manner.scale)
    if bias is None or manner.cap is not None:
        logits = capped(query @ key.mT * manner.scale, manner.cap)
        logits = logits if bias is None else logits + bias
    else:
        logits = torch.baddbmm(bias, query, key.mT, alpha=manner.scale)
    return manner.weights(logits, kinds) @ value
