"""The modules that a run stored, opened with the base, region, prompt and layout that they fit."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from peftu.bank import Layout
from peftu.base.identity import FORMER
from peftu.base.model import DTYPES, FrozenBase, dtype_name, load_base
from peftu.base.prompt import Prompt
from peftu.base.region import Region
from peftu.codes import CodeLayout, SharedLayout
from peftu.config import split_label, validated
from peftu.errors import PeftuError
from peftu.methods.everyone import method_class
from peftu.registry import did_you_mean
from peftu.results import load_run
from peftu.run_folder import MODULES
from peftu.store import EVERYONE, AdapterStore, Collection, recipe

SHARED, CODES = "shared", "codes"  # parts of a joint method: everybody's numbers, and a code for each user


@dataclass(frozen=True)
class Stored:
    """One method's modules at one seed.

    Attributes:
        store: where they are.
        collection: which they are.
        base: the base they were trained on, the same to the bit and in the same number type.
        made: the recipe: method, knobs, region, prompt, labels, and of a joint method the part.
        everybody: [numbers] what the users of a joint method share.
    """

    store: AdapterStore
    collection: Collection
    base: FrozenBase
    made: dict[str, Any]
    everybody: Tensor | None = None

    @property
    def region(self) -> Region:
        """Returns where the modules act."""
        return Region(**self.made["region"])

    @property
    def prompt(self) -> Prompt:
        """Returns what the base was told."""
        return Prompt.of(self.made["prompt"])

    @property
    def layout(self) -> Layout:
        """Returns the layout of the modules."""
        method = validated(method_class(self.made["method"], self.made["knobs"]), self.made["knobs"], "store")
        sites = self.base.sites(self.region, len(self.prompt.words))
        if self.everybody is None:
            return Layout(method, sites)
        return CodeLayout(SharedLayout(method, sites), self.everybody)

    @property
    def shared(self) -> bool:
        """Returns whether there is one module, everyone's."""
        return self.store.keys(self.collection) == [EVERYONE]

    def rows(self, user: str) -> Tensor:
        """Returns [1, width] the user's module, or everyone's where that is all there is.

        Raises:
            PeftuError: the user has none: the base never answers in their place.
        """
        return self.store.get(self.collection, [EVERYONE if self.shared else user])


def shared_label(label: str) -> str:
    """Returns the label of what the users of a joint method share."""
    return f"{label} ({SHARED})"


@contextmanager
def opened_store(run: Path) -> Iterator[AdapterStore]:
    """Opens the modules of a finished run.

    Raises:
        PeftuError: the run did not finish, was altered, or has no modules.
    """
    load_run(run)
    with AdapterStore(Path(run) / MODULES) as store:
        yield store


@contextmanager
def opened(run: Path, method: str | None = None, seed: int | None = None, base: str | None = None) -> Iterator[Stored]:
    """Opens one method's modules.

    Args:
        run: a finished run folder.
        method: as in the run's table; needed when the run trained several personal ones.
        seed: the first by default.
        base: where the base is now; None: where it was at training.

    Raises:
        PeftuError: no such run, method or seed, or another base than the modules were trained on.
    """
    with opened_store(run) as store:
        collection = _chosen(store, method, seed)
        made = collection.made
        yield Stored(store, collection, _trained_on(run, collection, base), made, _everybody(store, collection, made))


def _trained_on(run: Path, collection: Collection, moved: str | None) -> FrozenBase:
    """Returns the base that modules were trained on, in the number type that it had then, under the name it had."""
    where = moved or collection.base
    if moved is None and where.startswith(("/", ".", "~")) and not Path(where).expanduser().is_dir():
        raise PeftuError(f"{run}: its base was in {where}, where no folder is — say with --base where it is now")
    for dtype in _dtypes(collection):
        base = load_base(where, dtype=dtype)
        former = collection.fingerprint.startswith(FORMER)
        if collection.fingerprint == (base.former_fingerprint if former else base.fingerprint):
            base.name = split_label(collection.label)[1] or base.name
            return base
    if moved is not None:
        raise PeftuError(f"--base {moved}: is not the base that {run} was trained on — pass that one")
    raise PeftuError(f"{run}: base {where} has changed since training — restore it, or run again")


def _dtypes(collection: Collection) -> Iterable[torch.dtype]:
    """Returns the number type that modules were trained in; those it can be, where an earlier release stored them."""
    named = collection.made.get("dtype")
    if named is None:
        return DTYPES
    known = [dtype for dtype in DTYPES if dtype_name(dtype) == named]
    if not known:
        raise PeftuError(f"{collection.label}: was trained in '{named}', which peftu does not read — run again")
    return known


def _everybody(store: AdapterStore, codes: Collection, made: dict[str, Any]) -> Tensor | None:
    """Returns [numbers] what the users of a joint method share; None for other methods."""
    if made.get("part") != CODES:
        return None
    label, needed = shared_label(codes.label), recipe(**{**made, "part": SHARED})
    (kind,) = (k for k in store.collections() if (k.label, k.seed, k.recipe) == (label, codes.seed, needed))
    return store.get(kind, [EVERYONE])[0]


def _chosen(store: AdapterStore, method: str | None, seed: int | None) -> Collection:
    found = [kind for kind in store.collections() if kind.made.get("part") != SHARED]
    if method is None:
        personal = {c.label for c in found if store.keys(c) != [EVERYONE]} or {c.label for c in found}
        if len(personal) > 1:
            raise PeftuError(f"the run has several methods — choose with --method: {', '.join(sorted(personal))}")
        method = personal.pop()
    named = [c for c in found if method in (c.label, split_label(c.label)[0])]
    if not named:
        raise PeftuError(f"the run has no modules of '{method}'{did_you_mean(method, {c.label for c in found})}")
    for collection in named:
        if seed is None or collection.seed == seed:
            return collection
    raise PeftuError(f"the run has no modules for seed {seed} — there are {', '.join(str(c.seed) for c in named)}")
