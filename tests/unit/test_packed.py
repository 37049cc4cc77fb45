"""Sequences end to end: nothing lost, nothing added, nothing read from a neighbour."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from peftu.base.packed import Packed, length_batches, padded

torch.set_num_threads(1)

LENGTHS = st.lists(st.integers(0, 9), min_size=1, max_size=12)
CPU = torch.device("cpu")


def sequences(lengths: list[int]) -> list[torch.Tensor]:
    """Returns sequences of these lengths whose numbers tell where they stand."""
    return [torch.stack([torch.full((n,), float(i)), torch.arange(float(n))], 1) for i, n in enumerate(lengths)]


@given(lengths=LENGTHS, data=st.data())
def test_packed_gives_each_sequence_back(lengths: list[int], data: st.DataObject) -> None:
    whole = sequences(lengths)
    packed = Packed.of(whole)
    assert packed.lengths.tolist() == lengths
    rows = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=8))
    places, real = packed.places(torch.tensor(rows))
    assert places.shape == real.shape == (len(rows), max(lengths[row] for row in rows))
    for row, place, own in zip(rows, places, real, strict=True):
        if len(packed.values):
            read = packed.values[place]  # valid to read behind the end, too
            assert torch.equal(read[own], whole[row])
            if lengths[row]:
                assert (read[~own] == whole[row][-1]).all()
        assert int(own.sum()) == lengths[row]


@given(lists=st.lists(st.lists(st.integers(0, 50), max_size=6), min_size=1, max_size=6))
def test_padded_marks_what_is_real(lists: list[list[int]]) -> None:
    ids, real = padded(lists, 99, CPU)
    assert [row[own].tolist() for row, own in zip(ids, real, strict=True)] == lists
    assert (ids[~real] == 99).all()
    assert ids.shape[1] == max(map(len, lists))


@given(lengths=st.lists(st.integers(0, 40), max_size=30), most=st.integers(1, 100))
def test_batches_hold_every_sequence_once_and_no_more_tokens_than_allowed(lengths: list[int], most: int) -> None:
    batches = length_batches(lengths, most)
    assert sorted(number for batch in batches for number in batch) == list(range(len(lengths)))
    flat = [lengths[number] for batch in batches for number in batch]
    assert flat == sorted(flat)
    for batch in batches:
        size = len(batch) * max(1, *(lengths[number] for number in batch), 1)
        assert batch
        assert len(batch) == 1 or size <= most
    assert length_batches(lengths, most) == batches
