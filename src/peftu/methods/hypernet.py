"""A small network from a user's labelled examples to the user's module: an unseen user gets one without training."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from peftu.errors import PeftuError
from peftu.methods.method import MethodCard, TensorSpec
from peftu.methods.user_embedding import UserEmbedding

if TYPE_CHECKING:
    from torch import Tensor

    from peftu.base.sites import Site

GAIN = 8.0  # covariances of sentence vectors with labels are about a tenth


class Hypernet(UserEmbedding):
    """`user-embedding` whose vector is computed: e = W₂ tanh(W₁ z), z made of what the user's examples have in common.

    z holds each label's share less an even one, and the covariance of each label with the sentence vector, over the
    user's examples. With no examples z and e are zero: the shared module. No vector is learned, so ``code_lr`` and
    ``code_decay`` have no part in it.
    """

    card: ClassVar[MethodCard] = MethodCard(
        name="hypernet",
        summary="A network from a user's labelled examples to the user's module; new users need no training.",
        scope="both",
        trained=True,
        uses_others_labels=True,
        needs_base="yes",
        source="HyperNetworks (arXiv 1609.09106), on LoRA",
    )
    train_defaults: ClassVar[dict[str, Any]] = {"lr": 2e-3, "epochs": 8, "batch": 32}

    hidden: int = Field(64, ge=1, description="Width of the network.")

    def code_width(self, sites: "Sequence[Site]") -> int:
        """Returns the size of a user's vector.

        Raises:
            PeftuError: answers are free text.
        """
        if not any(site.kind == "head" for site in sites):
            raise PeftuError("method hypernet: reads labels, and answers here are free text — use user-embedding")
        return super().code_width(sites)

    def shared(self, site: "Site") -> dict[str, TensorSpec]:
        """Returns what `user-embedding` shares and, at the head site, the network."""
        tensors = super().shared(site)
        if site.kind != "head":
            return tensors
        inputs = site.d_out * (site.d_in + 1)
        w1 = TensorSpec((self.hidden, inputs), inputs**-0.5)
        return {**tensors, "W1": w1, "W2": TensorSpec((self.size, self.hidden), self.hidden**-0.5)}

    def compose(self, site: "Site", shared: "Mapping[str, Tensor]", code: "Tensor") -> "dict[str, Tensor]":
        """Returns each user's tensors; none at a head that the base does not need."""
        return super().compose(site, shared, code) if self.tensors(site) else {}

    def moments(self, embedded: "Tensor", target: "Tensor") -> "Tensor":
        """Returns the sums of target × vector, target, vector and one, over examples of at least one label."""
        real = (target.sum(-1, keepdim=True) > 0).to(embedded.dtype)
        vectors = embedded * real * embedded.shape[-1] ** 0.5  # entries of about one
        both = target.mT @ vectors
        return _cat([both.flatten(-2), target.sum(-2), vectors.sum(-2), real.sum(-2)])

    def encode(self, shared: "Mapping[str, Tensor]", moments: "Tensor") -> "Tensor":
        """Returns the users' vectors."""
        return (self.inputs(shared["W1"].shape[1], moments) @ shared["W1"].mT).tanh() @ shared["W2"].mT

    @staticmethod
    def inputs(width: int, moments: "Tensor") -> "Tensor":
        """Returns z [G, labels × (d + 1)], given sums [G, labels × d + labels + d + 1]."""
        d = moments.shape[-1] - 1 - width
        labels = width // (d + 1)
        both, target, vector = moments[..., : labels * d], moments[..., labels * d : width], moments[..., width:-1]
        count = moments[..., -1:]
        number = count.clamp(min=1)
        share = target / number
        covariance = both.reshape(*both.shape[:-1], labels, d) / number[..., None]
        covariance = covariance - share[..., None] * (vector / number)[..., None, :]
        even = (target + 1 / labels) / (count + 1) - 1 / labels
        return _cat([even, GAIN * covariance.flatten(-2)])


def _cat(parts: "list[Tensor]") -> "Tensor":
    import torch  # listing methods needs no torch

    return torch.cat(parts, -1)
