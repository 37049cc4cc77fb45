"""Every trained method learns free answers and writes them."""

import numpy as np
import pytest
import torch

from peftu.bank import Layout
from peftu.base.answers import Answer
from peftu.base.prompt import Prompt
from peftu.config import RegionSpec, TrainSpec
from peftu.generate import generate
from peftu.methods.method import methods
from peftu.testing import tiny_base, tiny_texts
from peftu.train import train
from peftu.train_rows import Examples, Unit

torch.set_num_threads(1)

PROMPT, TEXTS = Prompt("What do you say?", (), 24, answer_tokens=8), tiny_texts(3)
ANSWERS = [Answer(number % 3, words) for number, words in enumerate(("Fine.", "No, it", "ok", "why", "yes"))]
TRAINED = [name for name in methods.names() if hasattr(methods.get(name), "tensors") and name != "personal-head"]


def examples(*answers: int) -> Examples:
    number = len(answers)
    return Examples(np.array(answers), np.zeros((number, 0), np.float32), np.ones(number, np.float32))


@pytest.mark.parametrize("family", ["llama", "t5"])
@pytest.mark.parametrize("name", TRAINED)
def test_a_trained_method_learns_and_writes_free_answers(name: str, family: str) -> None:
    base = tiny_base(family)
    region = base.region(RegionSpec(depth=2, span="answer"))
    layout = Layout(methods.get(name)(), base.sites(region, 0))
    context = base.prefill_answers(PROMPT, TEXTS, ANSWERS, region)
    units = [Unit("one", examples(0, 1, 2), examples(0, 1, 2)), Unit("other", examples(3, 4), examples(3, 4))]
    trained = train(base, context, layout, units, TrainSpec(epochs=3, lr=1e-2), 0)
    gained = [(log.start_loss or 0) - (log.best_loss or 0) for log in trained.logs]
    assert max(gained) > 0  # validated on what it was trained on
    written = generate(base, PROMPT, TEXTS[:2], region, layout, trained.rows, np.array([0, 1]), tokens=4)
    assert len(written) == 2
