"""Codes as random effects: scores are linear where they are taken to be, and codes are the likeliest."""

import numpy as np
import torch

from peftu.codes import CodeLayout, SharedLayout
from peftu.config import TrainSpec
from peftu.methods.random_effects import RandomEffects
from peftu.predict import score
from peftu.testing import tiny_base, tiny_prompt, tiny_texts, tiny_units
from peftu.train_effects import likeliest_code, linearised, population_of, with_population
from peftu.train_joint import train_jointly

torch.set_num_threads(1)

TEXTS = 24


class Setting:
    """A tiny base, users with tastes of their own, and codes trained for them."""

    def __init__(self, family: str = "bert") -> None:
        self.base = tiny_base(family)
        region = self.base.region(None)
        self.context = self.base.prefill(tiny_prompt(), tiny_texts(TEXTS), region)
        self.layout = SharedLayout(RandomEffects(rank=2, size=3), self.base.sites(region, 2))
        self.units = tiny_units([12, 15, 0, 9], TEXTS)
        spec = TrainSpec(epochs=6, lr=1e-2, batch=16)
        self.trained = train_jointly(self.base, self.context, self.layout, self.units, spec, 0)
        self.codes = CodeLayout(self.layout, self.trained.shared)

    def scores(self, layout: CodeLayout, code: np.ndarray, text: np.ndarray) -> np.ndarray:
        return score(self.base, self.context, text, layout, torch.from_numpy(code).float()[None])


def test_scores_are_linear_in_a_code_near_by() -> None:
    setting = Setting()
    code = setting.trained.codes[0].double().numpy()
    rows = linearised(setting.base, setting.context, setting.codes, code, setting.units[0].train)
    text = setting.units[0].train.text
    np.testing.assert_allclose(rows.offset + rows.design @ code, setting.scores(setting.codes, code, text), atol=1e-5)
    for number in range(len(code)):
        step = np.zeros_like(code)
        step[number] = 1e-2
        ends = [setting.scores(setting.codes, code + sign * step, text) for sign in (1, -1)]
        np.testing.assert_allclose((ends[0] - ends[1]) / 2e-2, rows.design[:, :, number], atol=2e-3)


def test_a_code_is_the_likeliest_under_the_population_that_is_kept() -> None:
    setting = Setting("llama")
    shared, codes = with_population(setting.base, setting.context, setting.codes, setting.units, setting.trained.codes)
    layout = CodeLayout(setting.layout, shared)
    prior = population_of(layout)
    np.testing.assert_allclose(codes[2].numpy(), prior.mean, atol=1e-6)  # who has no rows
    assert np.linalg.eigvalsh(prior.covariance).min() > 0
    newcomer = tiny_units([10], TEXTS, seed=5)[0].train
    code = likeliest_code(setting.base, setting.context, layout, newcomer).double().numpy()

    def objective(point: np.ndarray) -> float:
        away = point - prior.mean
        likely = (newcomer.target * setting.scores(layout, point, newcomer.text)).sum()
        return float(away @ np.linalg.solve(prior.covariance, away) / 2 - likely)

    best = objective(code)
    draw = np.random.default_rng(0)
    for size in (0.03, 0.1, 0.3):
        for _ in range(8):
            assert objective(code + size * draw.normal(size=len(code))) > best - 1e-3
