"""Answers for one user from the modules that a run stored."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from peftu.bank import Layout
from peftu.base.model import load_base
from peftu.base.prompt import Prompt
from peftu.base.region import Region
from peftu.config import validated
from peftu.data.problem import Text
from peftu.errors import PeftuError
from peftu.execute.run import MODULES
from peftu.methods.method import methods
from peftu.predict import score
from peftu.registry import did_you_mean
from peftu.results import load_run
from peftu.store import EVERYONE, AdapterStore, Collection


def answer(
    run: Path, user: str, texts: Sequence[Text], method: str | None = None, seed: int | None = None
) -> dict[str, Any]:
    """Returns labels and probabilities of texts as this user's module sees them.

    Args:
        run: a finished run folder.
        user: the user's key. A user without a module is an error: the base never answers in their place.
        texts: what to judge.
        method: which method's modules, as in the run's table; needed when the run trained several personal ones.
        seed: which seed's modules; the first by default.

    Raises:
        PeftuError: no such run, method, seed or user, altered modules, or another base than they were trained on.
    """
    load_run(run)
    with AdapterStore(Path(run) / MODULES) as store:
        collection = _chosen(store, method, seed)
        shared = store.keys(collection) == [EVERYONE]
        rows = store.get(collection, [EVERYONE if shared else user])
    made = json.loads(collection.recipe)
    base = load_base(collection.base)
    if base.fingerprint != collection.fingerprint:
        raise PeftuError(f"{run}: base {collection.base} has changed since training — restore it, or run again")
    region, prompt = Region(**made["region"]), Prompt(**{**made["prompt"], "words": tuple(made["prompt"]["words"])})
    layout = Layout(
        validated(methods.get(made["method"]), made["knobs"], "store"), base.sites(region, len(prompt.words))
    )
    context = base.prefill(prompt, texts, region)
    scores = score(base, context, np.arange(len(texts)), layout, rows)
    chance = np.exp(scores) if prompt.exclusive else 1 / (1 + np.exp(-scores))
    answers = [
        {
            "text": text.text,
            "label": made["labels"][int(row.argmax())],
            "probabilities": dict(zip(made["labels"], map(float, row), strict=True)),
        }
        for text, row in zip(texts, chance, strict=True)
    ]
    return {"method": collection.label, "seed": collection.seed, "shared_module": shared, "answers": answers}


def _chosen(store: AdapterStore, method: str | None, seed: int | None) -> Collection:
    found = store.collections()
    if method is None:
        personal = {c.label for c in found if store.keys(c) != [EVERYONE]} or {c.label for c in found}
        if len(personal) > 1:
            raise PeftuError(
                f"predict: the run has several methods — choose with --method: {', '.join(sorted(personal))}"
            )
        method = personal.pop()
    named = [c for c in found if method in (c.label, c.label.rpartition("@")[0])]
    if not named:
        raise PeftuError(f"predict: no modules of '{method}'{did_you_mean(method, {c.label for c in found})}")
    for collection in named:
        if seed is None or collection.seed == seed:
            return collection
    raise PeftuError(f"predict: no modules for seed {seed} — there are {', '.join(str(c.seed) for c in named)}")
