"""`mixed-head`: a logistic mixed model on frozen text features; fits in seconds, and any dearer module must beat it."""

from typing import ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from peftu.data.problem import Floats, Problem, Text
from peftu.errors import PeftuError
from peftu.methods.method import Features, MethodCard, Numbers
from peftu.methods.mixed_features import text_features
from peftu.methods.mixed_fit import fit_mixed
from peftu.methods.mixed_model import Data, MixedModel, Priors
from peftu.methods.mixed_search import likeliest_priors


class FittedMixedHead:
    """A fitted `mixed-head`."""

    def __init__(self, model: MixedModel, notes: dict[str, object]) -> None:
        self.model = model
        self.notes = notes
        self.parameters_per_user = model.parameters_per_user

    def scores(self, users: Numbers, texts: Numbers) -> Floats:
        """Returns [rows, labels] log-probabilities for pairs of user and text numbers of the problem.

        For kind 'multi' each label's is its own: given or not, whatever the others.

        Raises:
            IndexError: a number is not of the problem.
        """
        if len(users) and (users.min() < 0 or texts.min() < 0):  # numpy would take them from the end
            raise IndexError("user and text numbers start at 0")
        return self.model.log_probabilities(users, texts).astype(np.float32)


class MixedHead(BaseModel):
    """A shared logistic model of the text, a bias, a slope and a small deviation for every user.

    The strengths of the Gaussian priors are standard deviations, in logits; 0 leaves a part out, None has it chosen by
    the likelihood of the validation rows of all users together. Weights are fitted on training rows only.
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
        train, val = self._data(problem, features, seed)
        fixed = {name: value for name in Priors.model_fields if (value := getattr(self, name)) is not None}
        priors, tried = likeliest_priors(train, val, fixed)
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
        return FittedMixedHead(model, notes)

    @property
    def reads_base(self) -> bool:
        """Returns whether these features come from a base."""
        return self.features != "tfidf"

    def _features(self, features: Features | None) -> str:
        chosen = self.features or ("tfidf" if features is None else "both")
        if features is None and chosen != "tfidf":
            raise PeftuError(f"mixed-head: features={chosen} needs a base — name one, or use features=tfidf")
        return chosen

    def _data(self, problem: Problem, features: Features | None, seed: int) -> tuple[Data, Data]:
        """Returns the train and the val rows over the same text features."""
        if not problem.card.answers.labelled:
            raise PeftuError(f"mixed-head: task {problem.card.name} has no label set — use a task with labels")
        rows = {part: problem.rows(part) for part in ("train", "val")}
        if not len(rows["train"]):
            raise PeftuError(f"mixed-head: task {problem.card.name} has no training rows — use a larger train share")
        chosen = self._features(features)
        embedded = problem.texts if self.context else [Text(text.text) for text in problem.texts]
        text = text_features(
            problem.texts,
            seen=np.unique(problem.text[rows["train"]]),
            embedding=features.embed(embedded) if features is not None and chosen != "tfidf" else None,
            ngrams=chosen != "embedding",
            rank=self.rank,
            width=self.width,
            form=self.form,
            seed=seed,
        )
        link: Literal["softmax", "sigmoid"] = "softmax" if problem.card.answers.exclusive else "sigmoid"
        train, val = (
            Data(
                features=text,
                users=len(problem.users),
                user=problem.user[chosen_rows],
                text=problem.text[chosen_rows],
                target=problem.target[chosen_rows].astype(np.float64),
                link=link,
            )
            for chosen_rows in rows.values()
        )
        return train, val
