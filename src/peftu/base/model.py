"""A frozen base model: run once a text, read for every user."""

import copy
import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from peftu.base.answers import Answer, Writer, log_likelihood, summed
from peftu.base.attention import use_our_attention
from peftu.base.families.family import Context, Family, Progress, forced_first, kv_width, written_stops
from peftu.base.families.known import family_class
from peftu.base.hardware import resolved
from peftu.base.identity import fingerprint, former_fingerprint, settings_of, tensors_in_memory
from peftu.base.loading import check_vocabulary, read_folder
from peftu.base.packed import Packed
from peftu.base.pooling import SentenceConfig
from peftu.base.prompt import About, Prompt
from peftu.base.reader import Cuts
from peftu.base.region import Region
from peftu.base.sites import Binding, Site, attached
from peftu.base.weights import Say, resolve_weights
from peftu.config import Dtype, HardwareSpec, RegionSpec
from peftu.data.problem import Floats, Text
from peftu.errors import PeftuError
from peftu.memory import keep

_log = logging.getLogger(__name__)


def _silent(_: int) -> None:
    """Reports no progress."""


class FrozenBase:
    """A base model whose weights never change.

    Args:
        family: the model seen through its family.
        name: what the user calls it.
        published: the fingerprint of a base that was read from a folder; None: of the model in memory.
        hardware: where it was told to compute, and in which numbers; None: as the model in memory does.
    """

    def __init__(
        self, family: Family, name: str, published: str | None = None, hardware: HardwareSpec | None = None
    ) -> None:
        self.family, self.name, self._published = family, name, published
        # Not checked: it may lie where no base is told to compute.
        here = HardwareSpec.model_construct(device=self.device.type, dtype=dtype_name(self.dtype))
        self.hardware = hardware or here
        family.model.eval().requires_grad_(False)
        use_our_attention(family.model)
        keep()

    def twin(self) -> "FrozenBase":
        """Returns the same base, which another thread may read: weights are shared, what modules hook into is not."""
        model = self.family.model
        shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        twin = copy.deepcopy(model, cast(Any, shared))
        family = type(self.family)(twin, copy.deepcopy(self.family.tokenizer), self.family.sentence)
        return FrozenBase(family, self.name, self.fingerprint, self.hardware)

    @property
    def device(self) -> torch.device:
        """Returns the device of the weights."""
        return next(self.family.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Returns the dtype that it computes in: that of the weights which are not quantised."""
        return next(weight.dtype for weight in self.family.model.parameters() if weight.is_floating_point())

    @property
    def default_region(self) -> RegionSpec:
        """Returns the region used when none is asked for, no deeper than the model."""
        spec = self.family.default_region
        return spec if (spec.depth or 0) <= self.family.layers else RegionSpec(span=spec.span)

    def region(self, spec: RegionSpec | None) -> Region:
        """Returns the region asked for, or the default one, resolved against this model.

        Raises:
            PeftuError: it is deeper than the model.
        """
        region = Region.resolve(spec or self.default_region, self.family.layers)
        narrower = region.span == "last" and "last" not in self.family.spans
        return replace(region, span="answer") if narrower else region

    @cached_property
    def fingerprint(self) -> str:
        """Returns 'v2:sha256:…': modules only fit the base they were trained on.

        It is of weights, config, tokenizer and pooling as published: of a base from a folder the same in every `dtype`.
        """
        if self._published is not None:
            return self._published
        model, tokenizer = cast(Any, self.family.model), self.family.tokenizer
        config, stops = model.config.to_diff_dict() | forced_first(model), written_stops(model)
        return fingerprint(tensors_in_memory(model), settings_of(config, tokenizer, stops, self.sentence))

    @cached_property
    def former_fingerprint(self) -> str:
        """Returns 'sha256:…', the fingerprint that earlier releases stored; it is of the `dtype`, too."""
        return former_fingerprint(self.family.model, self.dtype, self.family.tokenizer, self.sentence)

    @property
    def sentence(self) -> SentenceConfig | None:
        """Returns how an encoder makes a sentence vector; None for other bases."""
        return self.family.sentence

    @cached_property
    def writer(self) -> Writer:
        """Returns how this base reads and writes answers in free text.

        Raises:
            PeftuError: it is an encoder, which writes nothing.
        """
        if not self.family.writers:
            raise PeftuError(f"base {self.name}: an encoder writes no text — use a decoder or an encoder-decoder")
        return self.family.writer()

    def sites(self, region: Region, labels: int) -> list[Site]:
        """Returns the places inside the region where a module may act; no head where there are no labels.

        Raises:
            PeftuError: the region asks for an answer span, and the base has none.
        """
        if region.span not in self.family.spans:
            raise PeftuError(f"region: an {self.family.kind} has no answer span — use span=all")
        return [site for site in self.family.sites(region, labels) if labels or site.kind != "head"]

    def prefill(self, prompt: Prompt, texts: Sequence[Text], region: Region, progress: Progress = _silent) -> Context:
        """Returns what the region needs of each text, computed once for all users, epochs and methods.

        Raises:
            PeftuError: the base cannot read the prompt, or write one of its labels.
        """
        self.family.reader.check_words(prompt.words)
        return self.family.prefill(self.family.within(prompt), texts, region, progress)

    def primer(self, context: Context) -> dict[str, Tensor]:
        """Returns what the base makes of a context's instruction and label words, by site: where virtual tokens start.

        That is states [tokens, d] at the region's floor, and keys and values [2, tokens, d] of a layer (not encoders').
        """
        made = self.family.primer(context.prompt, context.region)
        return {site: tensor.float() for site, tensor in made.items()}

    def prefill_answers(
        self,
        prompt: Prompt,
        texts: Sequence[Text],
        answers: Sequence[Answer],
        region: Region,
        progress: Progress = _silent,
    ) -> Context:
        """Returns what the region needs of each answer, each text read once; the context's rows are answers."""
        return self.writer.prefill(self.family.within(prompt), texts, answers, region, progress)

    def readout(self, context: Context, rows: Tensor, binding: Binding | None = None) -> Tensor:
        """Returns [rows, labels] float32 label scores, differentiable in the binding's tensors only.

        Args:
            context: from `prefill`.
            rows: [rows] row numbers of the context, on the processor; with a binding, G equal groups in turn.
            binding: modules of the G users; None reads the base itself.

        Scores are log-probabilities among the labels, or one logit a label where labels do not exclude each other.
        Where answers are free text: [rows, 2] the answer's log-likelihood and its number of tokens.
        """
        if context.prompt.free:
            return self._read_answers(context, rows, binding)
        with attached(self.family.model, binding) as attachment:
            nodes = range(max(1, len(context.nodes)))
            hidden = [self.family.hidden(context, node, rows, attachment) for node in nodes]
        scores_bc = self.family.scores(context, hidden)
        head = binding.sites.get("head") if binding is not None else None
        if binding is not None and head is not None:
            x_gnd = hidden[0].float().reshape(binding.groups, -1, head.d_in)
            scores_bc = binding.apply(head, x_gnd, scores_bc.view(binding.groups, -1, head.d_out)).view_as(scores_bc)
        return scores_bc.log_softmax(-1) if context.prompt.exclusive else scores_bc

    def earlier_numbers(self, context: Context) -> int:
        """Returns how many numbers a row's keys and values before the span take in one layer, at most."""
        return 2 * context.longest * kv_width(self.family.config) if context.region.answering else 0

    def _read_answers(self, context: Context, rows: Tensor, binding: Binding | None) -> Tensor:
        with attached(self.family.model, binding) as attachment:
            hidden_td = self.writer.hidden(context, rows, attachment)
        target: Packed = context.state["target"]
        likely = log_likelihood(hidden_td, target.flat(rows), self.family.head, self.family.finish)
        return summed(likely, target.lengths[rows])

    def logits(self, hidden_bd: Tensor) -> Tensor:
        """Returns [b, vocabulary] float32 logits of the token after these states, as a `writer` gives them."""
        return self.family.finish(cast(Tensor, self.family.head(hidden_bd)).float())

    def recorded(self, prompt: Prompt) -> Prompt:
        """Returns the prompt with the frame that this base's template gives it now, so that it is read so for ever."""
        return self.family.recorded(prompt)

    def cuts(self, prompt: Prompt, texts: Sequence[Text]) -> Cuts:
        """Returns how many texts are too long, and what of them is not read."""
        return self.family.cuts(self.family.within(prompt), texts)

    def embed(self, texts: Sequence[Text], max_tokens: int = 256, about: About = "text") -> Floats:
        """Returns [texts, width] unit sentence vectors; longer texts are cut as `Prompt.about` says."""
        return cast(Floats, self.family.embed(texts, max_tokens, about).cpu().numpy().astype(np.float32))


def dtype_name(dtype: torch.dtype) -> Dtype:
    """Returns 'bfloat16' for torch.bfloat16."""
    return cast(Dtype, str(dtype).removeprefix("torch."))


def wrap(
    model: nn.Module,
    tokenizer: Any,
    name: str,
    sentence: SentenceConfig | None = None,
    published: str | None = None,
    hardware: HardwareSpec | None = None,
) -> FrozenBase:
    """Returns a frozen base around a loaded hub model; its family is read from the model itself.

    Args:
        model: the hub model.
        tokenizer: its tokenizer.
        name: what the user calls it.
        sentence: how an encoder makes a sentence vector; None: the mean of its tokens.
        published: the base's fingerprint where it was read from a folder.
        hardware: where it was told to compute, and in which numbers; None: as it does.

    Raises:
        PeftuError: peftu has not been checked on models of its type, and might read it wrongly without a sign; the
            model lacks its output matrix; or the tokenizer is not the model's.
    """
    hub = cast(Any, model)
    family, kind = family_class(hub.config.model_type, name), type(model).__name__
    if (hub.get_output_embeddings() is not None) != bool(family.writers):
        mend = "pass the model that writes text" if family.writers else "pass the encoder alone"
        raise PeftuError(f"base {name}: {kind} is not how peftu reads a {hub.config.model_type} — {mend}")
    check_vocabulary(model, tokenizer, name)
    return FrozenBase(family(model, tokenizer, sentence), name, published, hardware)


def load_base(name: str, hardware: HardwareSpec | None = None, say: Say = _log.info) -> FrozenBase:
    """Returns the base of this name: a known card, a local folder or a hub id.

    Args:
        name: see `peftu bases`.
        hardware: where it computes, and in which numbers; None: what `peftu.base.hardware.resolved` takes by itself.
        say: told in words what is going on when weights must be fetched first.

    Raises:
        PeftuError: no such base, weights that cannot be had or are altered, an architecture peftu does not know, or
            hardware that is not here.
    """
    place = resolved(hardware or HardwareSpec())
    loaded = read_folder(resolve_weights(name, say), name, place)
    return wrap(loaded.model, loaded.tokenizer, name, loaded.sentence, loaded.fingerprint, place)
