"""`mixed-head`: a logistic mixed model on frozen text features; fits in seconds, and any dearer module must beat it."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from peftu.data.problem import Floats, Problem, Text
from peftu.errors import PeftuError
from peftu.methods.method import Features, MethodCard
from peftu.methods.mixed_features import TextFeatures, fit_features
from peftu.methods.mixed_fit import fit_mixed
from peftu.methods.mixed_fitted import FittedMixedHead
from peftu.methods.mixed_model import Data, Priors, Reals
from peftu.methods.mixed_search import SEARCH_USERS, likeliest_priors, searched


class MixedHead(BaseModel):
    """A shared logistic model of the text, a bias, a slope and a small deviation for every user.

    The strengths of the Gaussian priors are standard deviations, in logits; 0 leaves a part out, None has it chosen by
    the likelihood of the validation rows of all users together, of a thousand drawn by hash where there are more.
    Weights are fitted on training rows only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    card: ClassVar[MethodCard] = MethodCard(
        name="mixed-head",
        summary="A shared logistic model with a bias, a slope and a small deviation for each user.",
        scope="both",
        trained=True,
        uses_others_labels=True,
        needs_base="optional",
        source="logistic mixed model (generalised linear mixed models)",
    )

    search_users: ClassVar[int] = SEARCH_USERS
    fitted_class: ClassVar[type[FittedMixedHead]] = FittedMixedHead

    features: Literal["embedding", "tfidf", "both"] | None = Field(
        None, description="None: both where there is a base, else tfidf."
    )
    rank: int = Field(128, ge=0, description="Directions that the n-grams are projected on; 0: every n-gram by itself.")
    form: bool = Field(
        False, description="Also use a text's length, marks, capitals and emoji, and its context's letters."
    )
    context: bool = Field(True, description="Embed each text with its context; n-grams are taken of both anyhow.")
    width: int = Field(32, ge=0, description="Leading feature directions on which a user may deviate.")
    embedding: float | None = Field(
        None, ge=0, description="Prior of the shared weights on the embedding; none: chosen on validation rows."
    )
    tfidf: float | None = Field(
        None, ge=0, description="Prior of the shared weights on the n-grams; none: chosen on validation rows."
    )
    text: float | None = Field(
        None, ge=0, description="Prior of the shared effect of each text; none: chosen on validation rows."
    )
    bias: float | None = Field(None, ge=0, description="Prior of a user's bias; none: chosen on validation rows.")
    slope: float | None = Field(
        None, ge=0, description="Prior of a user's slope on the shared score; none: chosen on validation rows."
    )
    deviation: float | None = Field(
        None, ge=0, description="Prior of a user's own weights; none: chosen on validation rows."
    )

    def fit(self, problem: Problem, features: Features | None, seed: int) -> FittedMixedHead:
        """Returns the model fitted on the train rows with the priors that the val rows find likeliest.

        Raises:
            PeftuError: the task has no label set, there are no train rows, or embeddings are asked for without a base.
        """
        self._check(problem)
        embedding = self.embedded(problem.texts, features)
        made = fit_features(
            problem.texts,
            seen=np.unique(problem.text[problem.rows("train")]),
            embedding=embedding,
            ngrams=self._features(features) != "embedding",
            rank=self.rank,
            width=self.width,
            form=self.form,
            seed=seed,
        )
        text = made.features(problem.texts, embedding)
        train, val = (data_of(problem, text, part) for part in ("train", "val"))
        fixed = {name: value for name in Priors.model_fields if (value := getattr(self, name)) is not None}
        priors, tried = likeliest_priors(*searched(train, val, problem.users), fixed)
        model = fit_mixed(train, priors)
        rows = np.bincount(train.user, minlength=train.users)
        notes: dict[str, object] = {
            "features": self._features(features),
            "priors": priors.model_dump(),
            "priors_tried": tried,
            "users_without_train_rows": int((rows == 0).sum()),
        }
        if len(val.user):
            notes["val_log_likelihood"] = model.log_likelihood(val) / len(val.user)
            notes["val_accuracy"] = model.accuracy(val)
        texts = {text: number for number, text in enumerate(problem.texts)}
        return FittedMixedHead(self, made, priors, model, texts, features, notes)

    def restore(
        self, tensors: Mapping[str, Reals], about: dict[str, Any], features: Features | None
    ) -> FittedMixedHead:
        """Returns the fitted method that `FittedMixedHead.state` made this of."""
        return self.fitted_class.of(self, tensors, about, features)

    def settled(self, fitted: FittedMixedHead) -> "MixedHead":
        """Returns the method with the priors that a fit of it chose: it fits without a search."""
        return self.model_copy(update=fitted.priors.model_dump())

    def embedded(self, texts: Sequence[Text], features: Features | None) -> Floats | None:
        """Returns [texts, width] the sentence vectors that the features are made of; None: they are made without."""
        if self._features(features) == "tfidf" or features is None:
            return None
        return features.embed(list(texts) if self.context else [Text(text.text) for text in texts])

    @property
    def reads_base(self) -> bool:
        """Returns whether these features come from a base."""
        return self.features != "tfidf"

    def _features(self, features: Features | None) -> str:
        chosen = self.features or ("tfidf" if features is None else "both")
        if features is None and chosen != "tfidf":
            raise PeftuError(f"mixed-head: features={chosen} needs a base — name one, or use features=tfidf")
        return chosen

    def _check(self, problem: Problem) -> None:
        if not problem.card.answers.labelled:
            raise PeftuError(f"mixed-head: task {problem.card.name} has no label set — use a task with labels")
        if not len(problem.rows("train")):
            raise PeftuError(f"mixed-head: task {problem.card.name} has no training rows — use a larger train share")


def data_of(problem: Problem, features: TextFeatures, part: str) -> Data:
    """Returns the rows of a part, over the features of all texts."""
    rows = problem.rows(part)
    return Data(
        features=features,
        users=len(problem.users),
        user=problem.user[rows],
        text=problem.text[rows],
        target=problem.target[rows].astype(np.float64),
        link="softmax" if problem.card.answers.exclusive else "sigmoid",
    )
