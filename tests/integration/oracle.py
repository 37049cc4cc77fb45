"""Label scores computed the slow and plain way: transformers' own forward pass, one text at a time, no padding.

A prompt is rendered by the template with its texts inside and cut into tokens as one string, each answer behind it.
"""

import math
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from transformers.utils import chat_template_utils

from peftu.base.frame import DAY
from peftu.base.prompt import Prompt
from peftu.data.problem import Text

Words = Sequence[Sequence[int]]


def constrained(words: Words, end: int, after: Callable[[tuple[int, ...]], Tensor], exclusive: bool = True) -> Tensor:
    """Returns each label's score if decoding may write nothing but the label words.

    Args:
        words: tokens of each label's word.
        end: token that ends a word where one word begins another.
        after: prefix -> logits of the next token.
        exclusive: log-probabilities, else logits around the mean of what may follow.
    """
    sequences = [tuple(word) for word in words]
    if any(one != other and other[: len(one)] == one for one in sequences for other in sequences):
        sequences = [(*word, end) for word in sequences]
    scores = []
    for word in sequences:
        total = torch.zeros(())
        for place, token in enumerate(word):
            allowed = sorted({other[place] for other in sequences if other[:place] == word[:place]})
            if len(allowed) > 1:
                logits = after(word[:place])[allowed].float()
                shares = logits.log_softmax(0) if exclusive else logits - logits.mean()
                total = total + shares[allowed.index(token)]
        scores.append(total)
    return torch.stack(scores)


class Oracle:
    """A hub model, plain or wrapped by peft, asked for label scores.

    Args:
        model: the model; run with transformers' eager attention.
        tokenizer: its tokenizer.
        labels: for encoders, a model without modules that embeds the label statements.
        head: for encoders, weight and bias of a linear map added to the scores.
        system: the chat template knows a turn of the system's.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        labels: Any = None,
        head: tuple[Tensor, Tensor] | None = None,
        system: bool = True,
    ) -> None:
        self.model, self.tokenizer, self.labels, self.head = model, tokenizer, labels or model, head
        self.system = system

    def scores(self, prompt: Prompt, text: Text) -> Tensor:
        """Returns [labels] scores of one text."""
        config = self.model.config
        if config.is_encoder_decoder:
            return self._encoder_decoder(prompt, text)
        return self._decoder(prompt, text) if hasattr(self.model, "lm_head") else self._encoder(prompt, text)

    def ids(self, text: str, special: bool = False) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=special)["input_ids"])

    def chat(self, prompt: Prompt, text: Text, answer: str | None = None) -> str:
        """Returns a decoder's prompt as one string, up to where it answers or to the end of an answer."""
        body, shown = body_of(text), [turn for item in prompt.shown for turn in item]
        if self.tokenizer.chat_template is None:
            begin = "".join(f"{shown_body}\nAnswer: {given}\n\n" for shown_body, given in prompt.shown)
            plain = f"{self.tokenizer.bos_token or ''}{prompt.instruction}\n\n{begin}{body}\nAnswer:"
            return plain if answer is None else f"{plain} {answer}"
        said = [*shown, body] if self.system else [f"{prompt.instruction}\n\n{[*shown, body][0]}", *[*shown, body][1:]]
        turns = [{"role": ("user", "assistant")[place % 2], "content": words} for place, words in enumerate(said)]
        turns = [{"role": "system", "content": prompt.instruction}] * self.system + turns
        turns += [] if answer is None else [{"role": "assistant", "content": answer}]
        asked = {"tokenize": False, "add_generation_prompt": answer is None, "enable_thinking": False}
        with mock.patch.object(chat_template_utils, "datetime", wraps=datetime, now=lambda: DAY):
            chat: str = self.tokenizer.apply_chat_template(turns, **asked)
        return chat if answer is None else chat[: chat.rindex(answer) + len(answer)]

    def prompt_ids(self, prompt: Prompt, text: Text) -> tuple[list[int], list[int]]:
        """Returns a decoder's tokens up to the end of the text, and those between text and answer."""
        whole = self.chat(prompt, text)
        ids = self.ids(whole)
        encoded = self.tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        end = whole.rindex(body_of(text)) + len(body_of(text))
        before = sum(start < end for start, _ in encoded)
        return ids[:before], ids[before:]

    def _decoder(self, prompt: Prompt, text: Text) -> Tensor:
        def after(prefix: tuple[int, ...]) -> Tensor:
            logits: Tensor = self.model(input_ids=torch.tensor([prefix]), use_cache=False).logits[0, -1]
            return logits

        words = [self.ids(self.chat(prompt, text, word)) for word in prompt.words]
        return constrained(words, self.tokenizer.eos_token_id, after, prompt.exclusive)

    def _encoder_decoder(self, prompt: Prompt, text: Text) -> Tensor:
        shown = "".join(f"{body}\nAnswer: {answer}\n\n" for body, answer in prompt.shown)
        ids = torch.tensor([self.ids(f"{prompt.instruction}\n\n{shown}{body_of(text)}", special=True)])

        def after(prefix: tuple[int, ...]) -> Tensor:
            own = torch.tensor([[*self.opening, *prefix]])
            logits: Tensor = self.model(input_ids=ids, decoder_input_ids=own, use_cache=False).logits[0, -1]
            return logits

        words = [self.ids(word) for word in prompt.words]
        return constrained(words, self.tokenizer.eos_token_id, after, prompt.exclusive)

    @property
    def opening(self) -> list[int]:
        """Returns what an encoder-decoder's `generate` puts in front of an answer."""
        forced = self.model.generation_config.forced_bos_token_id
        return [self.model.config.decoder_start_token_id, *([] if forced is None else [forced])]

    def _encoder(self, prompt: Prompt, text: Text) -> Tensor:
        own = self.vector(self.model, body_of(text))
        labels = torch.stack([self.vector(self.labels, f"{prompt.instruction} {word}") for word in prompt.words])
        scores = 10 * labels @ own
        scores = scores.log_softmax(0) if prompt.exclusive else scores - scores.mean()
        if self.head is not None:
            weight, bias = self.head
            scores = scores + weight @ (own * math.sqrt(len(own))) + bias
        return scores.log_softmax(0) if prompt.exclusive else scores

    def vector(self, model: Any, text: str) -> Tensor:
        """Returns the mean of the last hidden states, at unit length."""
        states = model(input_ids=torch.tensor([self.ids(text, special=True)])).last_hidden_state[0]
        return torch.nn.functional.normalize(states.mean(0), dim=0)


def body_of(text: Text) -> str:
    return f"{text.context}\n\nReply: {text.text}" if text.context else text.text
