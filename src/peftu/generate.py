"""Answers written for many users at once, each by the user's own module."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from peftu.bank import Layout
from peftu.base.model import FrozenBase
from peftu.base.prompt import Prompt
from peftu.base.region import Region
from peftu.base.sites import Binding
from peftu.base.writing import Hear, write_answers
from peftu.data.problem import Text

ROWS = 32  # answers written in one batch and one cache


def generate(
    base: FrozenBase,
    prompt: Prompt,
    texts: Sequence[Text],
    region: Region,
    layout: Layout | None = None,
    rows: Tensor | None = None,
    units: npt.NDArray[np.integer] | None = None,
    tokens: int | None = None,
    temperature: float = 0.0,
    seeds: Sequence[int] = (),
    progress: Callable[[int], None] = lambda _: None,
    hear: Hear | None = None,
) -> list[str]:
    """Returns an answer to each text, written by its unit's module; without ``layout``, by the base itself.

    Args:
        base: the frozen base.
        prompt: the task.
        texts: what is answered, one for each answer.
        region: where the modules act.
        layout: of the modules.
        rows: [modules, width] module rows.
        units: which module answers each text; None: the first.
        tokens: of an answer at most; None: as many as the prompt allows.
        temperature: 0: the likeliest token each time.
        seeds: of each answer's draws where there is a temperature.
        progress: told the number of answers done.
        hear: told of each answer as it is written.

    Raises:
        PeftuError: the base is an encoder, or cannot look at so many tokens at once.
    """
    units = np.zeros(len(texts), dtype=np.int64) if units is None else units
    # Texts of like length together, and equal ones: they are read once where modules act on the answer only.
    order = sorted(range(len(texts)), key=lambda i: (len(Prompt.body(texts[i])), Prompt.body(texts[i])))
    out = [""] * len(texts)
    for first in range(0, len(order), ROWS):
        chosen = order[first : first + ROWS]

        def bind(places: Tensor, batch: tuple[int, ...] = tuple(chosen)) -> Binding | None:
            if layout is None or rows is None:
                return None
            numbers = torch.from_numpy(np.asarray(units)[[batch[place] for place in places.tolist()]].astype(np.int64))
            chosen = rows[numbers]
            return layout.bind(layout.views(chosen.to(base.device)), len(places), layout.on(chosen))

        def heard(place: int, text: str, batch: tuple[int, ...] = tuple(chosen)) -> None:
            if hear is not None:
                hear(batch[place], text)

        answers = write_answers(
            base,
            prompt,
            [texts[i] for i in chosen],
            tokens or prompt.answer_tokens,
            region,
            bind,
            temperature=temperature,
            seeds=[seeds[i] for i in chosen] if temperature else (),
            hear=None if hear is None else heard,
        )
        for i, answer in zip(chosen, answers, strict=True):
            out[i] = answer
        progress(len(chosen))
    return out
