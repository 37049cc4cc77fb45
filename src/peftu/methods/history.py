"""`history`: a mixed head, and attention over a user's own labelled items for what it cannot say."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from peftu.data.problem import Problem
from peftu.data.stratify import hashed
from peftu.methods.method import Features, MethodCard, Numbers
from peftu.methods.mixed import MixedHead, data_of
from peftu.methods.mixed_fit import fit_mixed
from peftu.methods.mixed_fitted import FittedMixedHead

if TYPE_CHECKING:  # listing methods needs no torch
    from peftu.methods.history_fit import Settings
    from peftu.methods.history_fitted import FittedHistory
    from peftu.methods.history_model import Past, Reader


class History(MixedHead):
    """`mixed-head` that learned on all users how the items of somebody new are to be read.

    Users are read by a model that never saw them: each is in one of five parts, and what all share is fitted without
    that part. Histories of every size are drawn from the train rows, and the rows left out are judged. Learned are how
    far that shared model is followed, prior deviations of a user's own weights for each label, and attention of the
    judged text over the user's items, seen by their texts' features and by how far labels were not expected. It starts
    at the mixed head, and stays there unless validation rows become likelier by a nat. A newcomer's own weights are the
    likeliest given their items; nothing is trained for them.
    """

    card: ClassVar[MethodCard] = MethodCard(
        name="history",
        summary="The mixed head, with learned priors and attention over the user's items: how to read somebody new.",
        scope="both",
        trained=True,
        uses_others_labels=True,
        needs_base="optional",
        source="in-context learning of raters (arXiv 2510.07105), as attention on frozen features",
    )

    heads: int = Field(4, ge=0, description="Ways in which a text looks at the user's items.")
    size: int = Field(8, ge=1, description="Width in which texts are compared in each of them.")
    folds: int = Field(5, ge=2, description="Parts of the users; each is read by a model fitted without them.")
    steps: int = Field(200, ge=1, description="Steps at most, each on some thousand rows of several users.")
    rate: float = Field(1e-2, gt=0, description="Learning rate of the attention.")
    shrink_rate: float = Field(3e-2, gt=0, description="Learning rate of the priors and of the shared model's weight.")
    decay: float = Field(0.05, ge=0, description="Weight decay of what is added to the scores.")

    def fit(self, problem: Problem, features: Features | None, seed: int) -> "FittedHistory":
        """Returns the mixed head fitted as by itself, and the attention on top.

        Raises:
            PeftuError: as `mixed-head`.
        """
        return self.upon(super().fit(problem, features, seed), problem, seed)

    def upon(self, head: FittedMixedHead, problem: Problem, seed: int) -> "FittedHistory":
        """Returns what is learned on top of a mixed head that was fitted on a problem."""
        from peftu.methods.history_fit import learn

        fitted, leaf, (past, held_out), start = self.begun(head, problem, seed)
        val = data_of(problem, head.model.features, "val")
        floor = head.model.log_likelihood(val) if len(val.user) else 0.0
        learned = learn(start, past, held_out, problem.card.answers.exclusive, floor, self.settings(seed))
        fitted.notes = {**head.notes, "history_nats": learned.nats, "history_steps": learned.steps}
        if learned.nats:
            fitted.read_by(learned.reader, leaf, past)
        return fitted

    def begun(
        self, head: FittedMixedHead, problem: Problem, seed: int
    ) -> tuple["FittedHistory", Numbers, tuple[list["Past"], list["Past"]], "Reader"]:
        """Returns the mixed head so far, each user's leaf, all users' train and val items, and what will be trained."""
        from peftu.methods.history_fitted import NOBODY, FittedHistory
        from peftu.methods.history_model import Attention, Reader, Shrinkage

        train, val = (data_of(problem, head.model.features, part) for part in ("train", "val"))
        leaf = np.array([hashed(seed, "leaf", user) % self.folds for user in problem.users])
        leaves = []
        for number in range(self.folds):
            others = leaf[train.user] != number
            kept = train.of(others) if others.any() else train
            leaves.append(fit_mixed(kept, head.priors, start=head.model).shared)
        fitted = FittedHistory(head, leaves)
        past, held_out = (  # nobody's model saw val rows: these are read as test rows will be
            fitted.pasts(of, data.user, [problem.texts[text] for text in data.text], data.target.astype(np.float32))
            for of, data in ((leaf, train), (np.full_like(leaf, NOBODY), val))
        )
        features, labels = train.features.personal.shape[1], train.target.shape[1]
        fresh = Attention.fresh(self.heads, features, self.size, labels, seed)
        return fitted, leaf, (past, held_out), Reader(Shrinkage.none(train.outputs, head.priors), fresh)

    def settings(self, seed: int) -> "Settings":
        """Returns how it is trained."""
        from peftu.methods.history_fit import Settings

        return Settings(self.steps, self.rate, self.shrink_rate, self.decay, seed)

    def restore(
        self, tensors: Mapping[str, npt.NDArray[Any]], about: dict[str, Any], features: Features | None
    ) -> "FittedHistory":
        """Returns the fitted method that `FittedHistory.state` made this of."""
        from peftu.methods.history_fitted import FittedHistory

        return FittedHistory.of(self, tensors, about, features)
