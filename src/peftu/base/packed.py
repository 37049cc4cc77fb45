"""Sequences of different lengths, stored end to end."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packed:
    """Tokens of n sequences end to end.

    Attributes:
        values: [all tokens, ...].
        offsets: [n + 1] where each sequence starts; the last is the number of tokens.
    """

    values: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, sequences: Sequence[Tensor]) -> "Packed":
        """Returns the sequences end to end; each is [tokens, ...]."""
        lengths = torch.tensor([0, *(len(sequence) for sequence in sequences)])
        return cls(torch.cat(list(sequences)), lengths.cumsum(0).to(sequences[0].device))

    @property
    def lengths(self) -> Tensor:
        """Returns [n] the number of tokens of each sequence."""
        return self.offsets.diff()

    def places(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Returns where the rows' tokens stand in ``values`` and which of them are real, both [rows, longest].

        Places behind a sequence's end repeat its last token, so that they are always valid to read.
        """
        start, length = self.offsets[rows], self.lengths[rows]
        step = torch.arange(int(length.max()), device=rows.device)
        real = step[None] < length[:, None]
        return start[:, None] + torch.minimum(step[None], (length[:, None] - 1).clamp(min=0)), real


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
