"""Sequences of different lengths, stored and run end to end, so that no work is done on padding.

What decides shapes (row numbers, lengths, where sequences start) lies on the processor, whatever device computes: a
device that is asked for a number is waited for. What is computed of it is sent there (`sent`), or made there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function


def sent(x: Tensor, device: torch.device) -> Tensor:
    """Returns a tensor of the processor's on a device, which is not waited for (but a Mac's)."""
    x = x.pin_memory() if device.type == "cuda" and x.device.type == "cpu" else x
    return x.to(device, non_blocking=device.type != "mps")


def ranges(starts: Tensor, lengths: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns the numbers of ranges end to end, and which range each is of, both [total], on a device.

    Args:
        starts: [n] the first number of each range, on the processor.
        lengths: [n] how many numbers each has, on the processor.
        device: where they are made.
    """
    ends = lengths.cumsum(0)
    shift, counts = sent(torch.stack([starts - (ends - lengths), lengths]), device)
    total = int(ends[-1])
    which = torch.arange(len(lengths), device=device).repeat_interleave(counts, output_size=total)
    return shift.index_select(0, which).add_(torch.arange(total, device=device)), which


@dataclass(frozen=True)
class Packed:
    """Tokens of n sequences end to end.

    Attributes:
        values: [all tokens, ...].
        offsets: [n + 1] where each sequence starts; the last is the number of tokens; on the processor.
    """

    values: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, sequences: Sequence[Tensor]) -> "Packed":
        """Returns the sequences end to end; each is [tokens, ...]."""
        lengths = torch.tensor([0, *(len(sequence) for sequence in sequences)])
        return cls(torch.cat(list(sequences)), lengths.cumsum(0))

    @property
    def lengths(self) -> Tensor:
        """Returns [n] the number of tokens of each sequence, on the processor."""
        return self.offsets.diff()

    def flat(self, rows: Tensor) -> Tensor:
        """Returns [tokens, ...] the rows' tokens end to end."""
        return self.values.index_select(0, ranges(self.offsets[rows], self.lengths[rows], self.values.device)[0])

    def places(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Returns where the rows' tokens stand in ``values`` and which of them are real, both [rows, longest].

        Places behind a sequence's end repeat its last token (of an empty one: some other's), so that they are always
        valid to read. Row numbers come on the processor.
        """
        lengths, device = self.lengths[rows], self.values.device
        start, length = sent(torch.stack([self.offsets[rows], lengths]), device)
        step = torch.arange(int(lengths.max()), device=device)
        real = step[None] < length[:, None]
        place = start[:, None] + torch.minimum(step[None], (length[:, None] - 1).clamp(min=0))
        return place.clamp(max=len(self.values) - 1), real


class _Gather(Function):
    """Rows picked by index, where each real row is picked once: the gradient is a gather too, not a slow scatter."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, back: Tensor, void: Tensor | None) -> Tensor:
        ctx.save_for_backward(back, void)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        back, void = ctx.saved_tensors
        grad_in = grad.index_select(0, back)
        if void is not None:
            grad_in.index_fill_(0, void, 0)
        return grad_in, None, None, None


def gather_once(x: Tensor, index: Tensor, back: Tensor, void: Tensor | None = None) -> Tensor:
    """Returns x [n, ...] at these places [m]; of rows picked more than once, only the one in ``back`` has a gradient.

    Args:
        x: what is picked from.
        index: [m] places in x.
        back: [n] for each row of x the place in ``index`` where it is picked; any place for one that is not.
        void: rows of x that are never picked, whose gradient is zero; None: there are none.
    """
    return cast(Tensor, _Gather.apply(x, index, back, void))  # type: ignore[no-untyped-call]


def spread_heads(place: Tensor, heads: int) -> Tensor:
    """Returns [r × n × l] places among tokens × heads, from places [r, l] of tokens."""
    return (place[:, None] * heads + torch.arange(heads, device=place.device)[:, None]).flatten()


class Ragged:
    """Segments of different lengths lying end to end, and their padded grid [segments, longest].

    Args:
        lengths: [segments] tokens of each, at least one; on the processor.
        device: where the segments lie.

    Attributes:
        shape: of the grid.
        even: whether all segments are equally long.
        real: [segments, longest] where the grid holds tokens.
    """

    def __init__(self, lengths: Tensor, device: torch.device) -> None:
        least, longest = int(lengths.min()), int(lengths.max())
        if least < 1:
            raise ValueError("an empty segment cannot be padded")
        self.shape, self.even = (len(lengths), longest), least == longest
        step = torch.arange(longest, device=device)[None]
        if self.even:
            self.real = torch.ones(1, 1, dtype=torch.bool, device=device).expand(self.shape)
            return
        start, length = sent(torch.stack([lengths.cumsum(0) - lengths, lengths]), device)[..., None]
        self.real = step < length
        self._grid = (start + torch.minimum(step, length - 1)).flatten()
        first = torch.arange(len(lengths)) * longest
        self._flat, _ = ranges(first, lengths, device)
        self._void, _ = ranges(first + lengths, longest - lengths, device)

    def pad(self, x: Tensor) -> Tensor:
        """Returns [segments, longest, ...] from [tokens, ...]; places behind a segment's end repeat its last token."""
        if not self.even:
            # Nothing reads the places behind a segment's end, so their gradient is zero and need not be added back.
            x = gather_once(x, self._grid, self._flat)
        return x.view(*self.shape, *x.shape[1:])

    def unpad(self, x: Tensor) -> Tensor:
        """Returns [tokens, ...] from [segments, longest, ...]."""
        x = x.reshape(-1, *x.shape[2:])
        if self.even:
            return x
        return gather_once(x, self._flat, self._grid, self._void)


def padded(sequences: Sequence[Sequence[int]], fill: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns token ids right-padded to the longest, and which are real, both [sequences, longest]."""
    longest = max(map(len, sequences))
    ids = torch.full((len(sequences), longest), fill, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence, dtype=torch.long)
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    return ids.to(device), (torch.arange(longest)[None] < lengths[:, None]).to(device)


def length_batches(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Returns sequence numbers in batches of like length, each at most ``tokens`` when padded; never empty."""
    batches: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if not batches or (len(batches[-1]) + 1) * max(1, lengths[number]) > tokens:
            batches.append([])
        batches[-1].append(number)
    return batches
