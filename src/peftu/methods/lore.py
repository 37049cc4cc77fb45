"""`lore`: a mixed head whose users differ along a few directions of taste, learned with everyone's place on them."""

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field
from threadpoolctl import threadpool_limits

from peftu.data.problem import Problem, Text
from peftu.methods.effects import posterior
from peftu.methods.lore_model import LowRankModel, fit_low_rank
from peftu.methods.method import Features, MethodCard
from peftu.methods.mixed import MixedHead, data_of
from peftu.methods.mixed_fitted import FittedMixedHead
from peftu.methods.mixed_model import MixedModel, Parts, Reals

RANKS = (0, 1, 2, 4, 8)


class FittedLore(FittedMixedHead):
    """A fitted `lore`; of a user it keeps the effects alone."""

    user_parts: ClassVar[tuple[str, ...]] = ("effects",)
    model_class: ClassVar[type[MixedModel]] = LowRankModel
    model: LowRankModel

    def _user_weights(self, texts: Sequence[Text], target: Reals) -> Parts:
        """Returns a user's effects: the likeliest given these rows, what is shared, and the population."""
        model, numbers = self._reading(texts)
        assert isinstance(model, LowRankModel)  # noqa: S101  (its class is kept)
        with threadpool_limits(1):
            return {"effects": posterior(model.prior, model.labelled(numbers, target)).mean}


class Lore(MixedHead):
    """`mixed-head`, and x(text) · V · w_u: directions V for all users, weights w_u for each.

    A user's bias, slope, weights and deviations come from one Gaussian, learned from all users together with V; who has
    no rows has its mean. The shared part, text effects among it, is that of a `mixed-head` with the same knobs.
    """

    card: ClassVar[MethodCard] = MethodCard(
        name="lore",
        summary="A mixed head whose users differ along a few learned directions; how they differ is learned, too.",
        scope="both",
        trained=True,
        uses_others_labels=True,
        needs_base="optional",
        source="low-rank reward models (arXiv 2504.14439), as a mixed model of labels",
    )
    fitted_class: ClassVar[type[FittedMixedHead]] = FittedLore

    directions: int | None = Field(
        None, ge=0, le=64, description="Learned directions; none: chosen on validation rows from 0, 1, 2, 4, 8."
    )
    spread: float = Field(0.5, gt=0, description="Prior of the directions' weights on the features.")

    def fit(self, problem: Problem, features: Features | None, seed: int) -> FittedLore:
        """Returns the model fitted on the train rows, with as many directions as the val rows find likeliest."""
        mixed = super().fit(problem, features, seed)
        train, val = (data_of(problem, mixed.model.features, part) for part in ("train", "val"))
        ranks = RANKS if self.directions is None else (self.directions,)
        with threadpool_limits(1):
            model, tried = fit_low_rank(mixed.model, mixed.priors, train, val, ranks, self.spread)
        notes = {
            **mixed.notes,
            "directions": model.parts["directions"].shape[2],
            "directions_tried": {str(rank): value / max(1, len(val.user)) for rank, value in tried.items()},
        }
        if len(val.user):
            notes |= {
                "val_log_likelihood": model.log_likelihood(val) / len(val.user),
                "val_accuracy": model.accuracy(val),
            }
        return FittedLore(self, mixed.featurizer, mixed.priors, model, mixed.known, features, notes)

    def settled(self, fitted: FittedMixedHead) -> "Lore":
        """Returns the method with the priors and directions that a fit of it chose: it fits without a search."""
        rank: dict[str, Any] = {"directions": fitted.model.parts["directions"].shape[2]}
        return self.model_copy(update={**fitted.priors.model_dump(), **rank})
