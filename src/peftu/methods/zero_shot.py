"""The base as it is: label scores without any training."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from peftu.methods.method import MethodCard


class ZeroShot(BaseModel):
    """Scores the label set with the frozen base and nothing else."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    card: ClassVar[MethodCard] = MethodCard(
        name="zero-shot",
        summary="The base's own label scores; the same for every user.",
        scope="none",
        trained=False,
        uses_others_labels=False,
        needs_base="yes",
        source="label-set scoring",
    )
