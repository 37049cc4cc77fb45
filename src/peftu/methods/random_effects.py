"""`random-effects`: a shared LoRA that each user scales and shifts, and a bias a label; how users differ is learned."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from peftu.errors import PeftuError
from peftu.methods.method import MethodCard, TensorSpec
from peftu.methods.user_embedding import UserEmbedding

if TYPE_CHECKING:
    from torch import Tensor

    from peftu.base.sites import Site


class RandomEffects(UserEmbedding):
    """`user-embedding` whose codes [e, b] come from one Gaussian, learned from all users; b moves the label scores.

    Codes are trained beside what is shared; then their population and each user's likeliest code are found in turn, on
    scores that are linear in the codes. The head site keeps the Gaussian: `mean` [c] and `root` [c, c], with covariance
    root · rootᵀ.
    """

    card: ClassVar[MethodCard] = MethodCard(
        name="random-effects",
        summary="A LoRA for all users that each scales and shifts, with biases; how users differ is learned from all.",
        scope="both",
        trained=True,
        uses_others_labels=True,
        needs_base="yes",
        source="linear mixed models (Laird & Ware 1982), on LoRA",
    )
    train_defaults: ClassVar[dict[str, Any]] = {"lr": 2e-3, "epochs": 8, "batch": 32}

    size: int = Field(8, ge=1, description="Numbers in a user's vector, beside a bias for each label.")

    def blocks(self, sites: "Sequence[Site]") -> tuple[int, ...]:
        """Returns how many numbers of a code are of the vector, and biases.

        Raises:
            PeftuError: answers are free text.
        """
        labels = next((site.d_out for site in sites if site.kind == "head"), 0)
        if not labels:
            raise PeftuError("method random-effects: reads labels, and answers here are free text — use user-embedding")
        return self.size, labels

    def code_width(self, sites: "Sequence[Site]") -> int:
        """Returns the size of a code."""
        return sum(self.blocks(sites))

    def tensors(self, site: "Site") -> dict[str, TensorSpec]:
        """Returns a user's tensors at a site: at the head at least a bias."""
        tensors = super().tensors(site)
        return {**tensors, "bias": TensorSpec((site.d_out,))} if site.kind == "head" else tensors

    def shared(self, site: "Site") -> dict[str, TensorSpec]:
        """Returns what `user-embedding` shares and, at the head, the population of codes."""
        tensors = super().shared(site)
        if site.kind != "head":
            return tensors
        size = self.size + site.d_out
        gaussian = {"mean": TensorSpec((size,)), "root": TensorSpec((size, size))}
        return {**tensors, **gaussian}

    def compose(self, site: "Site", shared: "Mapping[str, Tensor]", code: "Tensor") -> "dict[str, Tensor]":
        """Returns each user's tensors."""
        vector = code[:, : self.size].contiguous()  # else how it rounds depends on how many users are read
        bias = code[:, self.size :]
        if site.kind != "head":
            return super().compose(site, shared, vector)
        made = {"bias": shared["bias"] + vector @ shared["U"].mT + bias}
        return made if "weight" not in shared else {**made, "weight": shared["weight"].expand(len(code), -1, -1)}

    def apply(self, site: "Site", x: "Tensor", y: "Tensor", p: "Mapping[str, Tensor]") -> "Tensor":
        """Returns y changed; at the head, plus each user's bias and, where there is one, the linear map of x."""
        if site.kind == "head" and "weight" not in p:
            return y + p["bias"].to(y.dtype)[:, None]
        return super().apply(site, x, y, p)
