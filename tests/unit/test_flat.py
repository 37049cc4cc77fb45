"""Rows laid end to end behind a shared head attend as a plain loop over rows does, forwards and backwards."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from peftu.base import flat as module
from peftu.base.flat import Flat
from peftu.base.manner import Manner

torch.set_num_threads(1)

CPU = torch.device("cpu")
HEADS, KINDS, WIDTH, SCALE = 4, 2, 3, 0.7
SHAPES = st.tuples(
    st.integers(1, 3),  # groups
    st.integers(1, 4),  # rows a group
    st.integers(0, 3),  # head
    st.booleans(),  # causal
    st.sampled_from([None, 1, HEADS]),  # heads of the bias
    st.integers(0, 2**16),
)
SINKS = torch.tensor([-1.0, 0.0, 0.5, 2.0])
MANNERS = st.builds(
    Manner,
    scale=st.just(SCALE),
    window=st.none() | st.integers(1, 5),
    cap=st.none() | st.just(0.8),
    sinks=st.none() | st.just(SINKS),
)


def loop(query: Tensor, key: Tensor, value: Tensor, causal: bool, manner: Manner) -> Tensor:
    """Returns [tokens, heads, width] attention of one sequence [heads, tokens, width]."""
    key, value = (x.repeat_interleave(HEADS // KINDS, 0) for x in (key, value))
    logits = query @ key.mT * SCALE
    logits = logits if manner.cap is None else manner.cap * (logits / manner.cap).tanh()
    place = torch.arange(query.shape[1])
    back = place[:, None] - place
    if isinstance(manner.bias, Tensor):
        logits = logits + manner.bias[0, :, : len(place), : len(place)]
    if causal:
        logits = logits.masked_fill((back < 0) | (back >= (manner.window or len(place))), -torch.inf)
    share = logits.exp()
    sink = 0.0 if manner.sinks is None else manner.sinks[:, None, None].exp()
    return (share / (share.sum(-1, keepdim=True) + sink) @ value).transpose(0, 1)


@pytest.mark.parametrize("written_out", [True, False])
@settings(deadline=None, max_examples=60)
@given(shape=SHAPES, manner=MANNERS, data=st.data())
def test_attention_and_gradients_equal_a_loop_over_rows(
    written_out: bool, shape: tuple[int, int, int, bool, int | None, int], manner: Manner, data: st.DataObject
) -> None:
    groups, per, head, causal, biased, seed = shape
    head = head if causal else 0
    lengths = data.draw(st.lists(st.integers(1, 6), min_size=groups * per, max_size=groups * per))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ROWS_A_BUCKET", 2)
        patch.setattr(module, "WRITTEN_OUT", 128 if written_out else 0)
        flat = Flat(torch.tensor(lengths), groups, CPU, head, causal)
        tokens = groups * head + sum(lengths)
        made = torch.Generator().manual_seed(seed)
        q, k, v = (torch.randn(n, tokens, WIDTH, generator=made, requires_grad=True) for n in (HEADS, KINDS, KINDS))
        longest = head + max(lengths)
        bias = None if biased is None else torch.randn(1, biased, longest, longest, generator=made)
        how = replace(manner, bias=bias)
        mine = flat.attend(q[None], k[None], v[None], how)[0]
        last = flat.attend_last(q[None, :, flat.last], k[None], v[None], manner)[0]
        assert torch.allclose(last, flat.attend(q[None], k[None], v[None], manner)[0, flat.last], atol=1e-5)
        weight = torch.randn(mine.shape, generator=made)
        found = torch.autograd.grad((mine * weight).sum() + last.sin().sum(), (q, k, v))

    expected, plain, place = torch.zeros_like(mine), torch.zeros_like(mine), 0
    for group in range(groups):
        first = list(range(place, place + head))
        place += head
        for length in lengths[group * per : (group + 1) * per]:
            own = [*first, *range(place, place + length)]
            place += length
            parts, index = (q[:, own], k[:, own], v[:, own]), (torch.tensor(own),)
            expected = expected.index_put(index, loop(*parts, causal, how))
            plain = plain.index_put(index, loop(*parts, causal, manner))
    assert torch.allclose(mine, expected, atol=1e-5)
    wanted = torch.autograd.grad((expected * weight).sum() + plain[flat.last].sin().sum(), (q, k, v))
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_tokens_come_from_the_head_and_their_own_row() -> None:
    flat = Flat(torch.tensor([2, 1, 1, 3]), 2, CPU, head=2)
    source, positions = flat.spread(torch.tensor([10, 20, 30, 40]))
    assert source.tolist() == [0, 1, 10, 11, 20, 0, 1, 30, 40, 41, 42]
    assert positions.tolist() == [0, 1, 2, 3, 2, 0, 1, 2, 2, 3, 4]
    assert flat.last.tolist() == [3, 4, 7, 10]
    assert flat.tokens.shape == (2, 6)
