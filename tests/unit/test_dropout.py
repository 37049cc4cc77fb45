"""What a training step leaves out is drawn from the user's seed, the step and the place, and from nothing else."""

import torch

from peftu.bank import Layout
from peftu.config import RegionSpec
from peftu.dropout import draws, dropped
from peftu.methods.lora import Lora
from peftu.testing import tiny_base

WORD = (1 << 64) - 1


def split_mix(z: int) -> int:
    """Returns SplitMix64's output for a state, in whole numbers without a sign, one step as it is published."""
    z = z * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15 & WORD
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & WORD
    z = (z ^ z >> 27) * 0x94D049BB133111EB & WORD
    return z ^ z >> 31


def test_draws_are_split_mix_in_plain_numbers() -> None:
    seeds, steps, places = torch.tensor([3, (1 << 62) + 5]), torch.tensor([0, 7]), torch.arange(5, 9)
    expected = [
        [(split_mix(split_mix(seed + step) + place & WORD) >> 40) / (1 << 24) for place in places.tolist()]
        for seed, step in zip(seeds.tolist(), steps.tolist(), strict=True)
    ]
    assert draws(seeds, steps, places).tolist() == expected


def test_draws_are_uniform_and_of_their_own() -> None:
    seeds, places = torch.arange(200) * 7919, torch.arange(500)
    first, later = (draws(seeds, torch.full_like(seeds, step), places) for step in (0, 1))
    assert abs(float(first.mean()) - 0.5) < 0.005
    counts = torch.histc(first, 10, 0, 1) / first.numel()
    assert float((counts - 0.1).abs().max()) < 0.005
    for one, other in ((first, later), (first[:-1], first[1:]), (first[:, :-1], first[:, 1:])):
        assert abs(float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])) < 0.02


def test_whole_features_go_and_the_mean_stays() -> None:
    base = tiny_base("llama")
    seeds = torch.arange(400) * 104729
    steps = torch.zeros_like(seeds)

    def step_of(method: Lora) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        layout = Layout(method, base.sites(base.region(RegionSpec(depth=1)), 2))
        tensors = layout.views(torch.ones(len(seeds), layout.width))
        site = next(iter(tensors))
        return tensors[site], dict(dropped(layout, tensors, seeds, steps)[site])

    before, after = step_of(Lora(rank=4, dropout=0.25))
    assert torch.equal(after["B"], before["B"])
    assert torch.equal(after["A"], after["A"][:, :1].expand_as(after["A"]))
    assert set(after["A"].unique().tolist()) == {0.0, float(torch.tensor(1 / 0.75))}
    assert abs(float(after["A"].mean()) - 1) < 0.02
    before, after = step_of(Lora(rank=4))
    assert after["A"] is before["A"]
