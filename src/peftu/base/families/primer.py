"""What a base makes of instruction and label words: where virtual tokens start, since it knows how to read those."""

from typing import Any

import torch
from torch import Tensor

from peftu.base.attention import Memory, causal_mask
from peftu.base.families.decoder import Decoder
from peftu.base.families.encoder import Encoder
from peftu.base.families.encoder_decoder import EncoderDecoder
from peftu.base.families.family import Family
from peftu.base.prompt import Prompt
from peftu.base.region import Region
from peftu.data.problem import Text


@torch.no_grad()
def primer(family: Family, prompt: Prompt, region: Region) -> dict[str, Tensor]:
    """Returns site -> states [tokens, d] at the region's floor, or keys and values [2, tokens, d] of a layer, float32.

    Label words come last. An encoder gives states alone.
    """
    if isinstance(family, Decoder):
        states = _decoder(family, prompt, region)
    elif isinstance(family, EncoderDecoder):
        states = _encoder_decoder(family, prompt, region)
    else:
        assert isinstance(family, Encoder)  # noqa: S101  (there are three families)
        states = {"tokens": _encoder(family, prompt, region)}
    return {site: tensor.float() for site, tensor in states.items()}


def _decoder(family: Decoder, prompt: Prompt, region: Region) -> dict[str, Tensor]:
    words = family.reader.ending(prompt).words
    ids = torch.tensor([[*family.reader.opening(prompt), *(token for word in words for token in word)]])
    ids = ids.to(family.device)
    positions, floor = torch.arange(ids.shape[1], device=ids.device)[None], region.floor(family.layers)
    mask, memory = causal_mask(ids.shape[1], ids.device), Memory(record=range(floor, family.layers))
    at_floor = family.run(family.embed_tokens(ids, positions), positions, range(floor), mask)
    family.run(at_floor, positions, range(floor, family.layers), mask, memory)
    states = at_floor if floor else family.embedding(ids)  # places are added when the tokens enter
    return {"tokens": states[0], **{f"kv.{layer}": _paired(*made) for layer, made in memory.made.items()}}


def _encoder(family: Encoder, prompt: Prompt, region: Region) -> Tensor:
    lists, _ = family.tokens([Text(f"{prompt.instruction} {' '.join(prompt.words)}")], prompt.max_tokens)
    ids, floor = torch.tensor(lists, device=family.device), region.floor(family.layers)
    if floor == 0:
        embeddings: Any = family.embeddings
        return embeddings.word_embeddings(ids)[0]  # type: ignore[no-any-return]
    return family.run(family.embeddings(input_ids=ids), torch.ones_like(ids, dtype=torch.bool), range(floor))[0]


def _encoder_decoder(family: EncoderDecoder, prompt: Prompt, region: Region) -> dict[str, Tensor]:
    text = Text(f"{prompt.instruction} {' '.join(prompt.words)}")
    ids = torch.tensor(family.reader.bodies([text], prompt.max_tokens).lists, device=family.device)
    real, below, layers = torch.ones_like(ids, dtype=torch.bool), len(family.encoder.block), len(family.decoder.block)
    encoded = family.encode(family.encoder.embed_tokens(ids), real, range(below))
    cache, floor = family.cache(), region.floor(layers)
    read = family.decoder.embed_tokens(ids)
    h_bsd = family.decode(read, range(floor), real, encoded, cache)
    family.decode(h_bsd, range(floor, layers), real, encoded, cache)
    if region.span == "all":
        h_bsd = family.encode(family.encoder.embed_tokens(ids), real, range(region.floor(below)), final=False)
    cached = cache.self_attention_cache.layers
    return {"tokens": h_bsd[0], **{f"kv.{n}": _paired(cached[n].keys, cached[n].values) for n in range(floor, layers)}}


def _paired(keys: Tensor, values: Tensor) -> Tensor:
    """Returns [2, tokens, heads × head width] from [1, heads, tokens, head width] each."""
    return torch.stack([x[0].transpose(0, 1).flatten(1) for x in (keys, values)])
