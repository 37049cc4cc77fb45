"""Rows run end to end give what a plain loop over rows gives, forwards and backwards."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peftu.base.packed import Ragged

CPU = torch.device("cpu")


@settings(deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.integers(0, 2**16))
def test_padding_and_gradients_equal_a_loop_over_segments(lengths: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    ragged = Ragged(torch.tensor(lengths), CPU)
    x = torch.randn(sum(lengths), 3, generator=generator, requires_grad=True)
    mixing = torch.randn(max(lengths), max(lengths), generator=generator).tril()

    mixed = torch.einsum("ts,bsd->btd", mixing, ragged.pad(x))  # causal: no place reads behind itself
    out = ragged.unpad(mixed)
    out.sin().sum().backward()
    assert x.grad is not None
    mine, x.grad = x.grad, None

    plain = torch.cat([mixing[: len(part), : len(part)] @ part for part in x.split(lengths)])
    plain.sin().sum().backward()
    assert torch.allclose(out, plain, atol=1e-5)
    assert torch.allclose(mine, x.grad, atol=1e-5)


def test_even_segments_are_views() -> None:
    x = torch.arange(12.0).view(6, 2)
    assert Ragged(torch.tensor([3, 3]), CPU).pad(x).data_ptr() == x.data_ptr()


def test_an_empty_segment_is_a_bug_not_a_wrong_number() -> None:
    with pytest.raises(ValueError, match="empty"):
        Ragged(torch.tensor([2, 0]), CPU)
