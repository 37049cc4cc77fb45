"""The label trie: the probability that decoding held to the label set writes a label's word."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from peftu.base.prompt import Prompt, label_trie, trie_scores
from peftu.data.problem import Text
from peftu.errors import PeftuError

END, VOCABULARY = 9, 10
Word = tuple[int, ...]
WORDS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple), min_size=2, max_size=6, unique=True)


def logits_after(prefix: Word, seed: int) -> Tensor:
    """Returns made-up logits of the next token, the same for the same prefix."""
    generator = torch.Generator().manual_seed(hash((seed, prefix)) % 2**62)
    return torch.randn(VOCABULARY, generator=generator)


def by_rejection(words: list[Word], seed: int) -> list[float]:
    """Returns each word's log-probability when a decoder may only go on towards some word, step by step."""
    clash = any(a != b and b[: len(a)] == a for a, b in product(words, words))
    words = [(*word, END) for word in words] if clash else words
    found = []
    for word in words:
        chance = 1.0
        for place in range(len(word)):
            alive = [other for other in words if other[:place] == word[:place]]
            weight = {token: math.exp(logits_after(word[:place], seed)[token]) for token in {o[place] for o in alive}}
            chance *= weight[word[place]] / sum(weight.values())
        found.append(math.log(chance))
    return found


@settings(max_examples=80)
@given(words=WORDS, seed=st.integers(0, 99))
def test_scores_are_those_of_decoding_held_to_the_labels(words: list[Word], seed: int) -> None:
    nodes = label_trie(words, END)
    logits = [logits_after(node.prefix, seed)[list(node.tokens)][None] for node in nodes]
    scores = trie_scores(nodes, logits, exclusive=True)[0]
    assert scores.tolist() == pytest.approx(by_rejection(words, seed), abs=1e-5)
    assert float(scores.exp().sum()) == pytest.approx(1, abs=1e-5)


@given(words=WORDS)
def test_every_node_parts_labels_and_every_two_labels_part(words: list[Word]) -> None:
    nodes = label_trie(words, END)
    assert len(nodes) < len(words)
    for node in nodes:
        assert len(node.tokens) == len(set(node.tokens)) > 1
        assert len(node.branch) == len(words)
        assert {branch for branch in node.branch if branch >= 0} == set(range(len(node.tokens)))
    for first in range(len(words)):
        for second in range(first):
            assert any(-1 != node.branch[first] != node.branch[second] != -1 for node in nodes)


def test_one_node_is_enough_where_first_tokens_differ() -> None:
    (node,) = label_trie([(1, 5, 6), (2,), (3, 5)], END)
    assert (node.prefix, node.tokens, node.branch) == ((), (1, 2, 3), (0, 1, 2))


def test_labels_that_do_not_exclude_each_other_do_not_compete() -> None:
    nodes = label_trie([(1,), (2,), (3,)], END)
    logits = torch.tensor([[2.0, 0.0, 1.0]])
    scores = trie_scores(nodes, [logits], exclusive=False)
    assert scores.tolist() == [[1.0, -1.0, 0.0]]
    assert torch.equal(trie_scores(nodes, [logits + 7], exclusive=False), scores)


@pytest.mark.parametrize("words", [[(1,), (1,)], [(1,), ()], [(), ()]])
def test_words_that_cannot_be_told_apart_are_refused(words: list[Word]) -> None:
    with pytest.raises(PeftuError, match="label words"):
        label_trie(words, END)


def test_a_reply_is_shown_with_what_it_answers() -> None:
    assert Prompt.body(Text("Yes.")) == "Yes."
    assert Prompt.body(Text("Yes.", "")) == "Yes."
    assert Prompt.body(Text("Yes.", "Is it?")) == "Is it?\n\nReply: Yes."
