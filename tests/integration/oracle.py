"""Label scores computed the slow and plain way: transformers' own forward pass, one text at a time, no padding."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

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
    """

    def __init__(
        self, model: Any, tokenizer: Any, labels: Any = None, head: tuple[Tensor, Tensor] | None = None
    ) -> None:
        self.model, self.tokenizer, self.labels, self.head = model, tokenizer, labels or model, head

    def scores(self, prompt: Prompt, text: Text) -> Tensor:
        """Returns [labels] scores of one text."""
        config = self.model.config
        if config.is_encoder_decoder:
            return self._encoder_decoder(prompt, text)
        return self._decoder(prompt, text) if hasattr(self.model, "lm_head") else self._encoder(prompt, text)

    def ids(self, text: str, special: bool = False) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=special)["input_ids"])

    def prompt_ids(self, prompt: Prompt, text: Text) -> tuple[list[int], list[int]]:
        """Returns a decoder's tokens up to the end of the text, and those between text and answer."""
        body = self.ids(body_of(text))[: prompt.max_tokens]
        if self.tokenizer.chat_template is None:
            start = self.ids(f"{self.tokenizer.bos_token}{prompt.instruction}\n\n")
            return start + body, self.ids("\nAnswer:")
        turns = [{"role": "system", "content": prompt.instruction}, {"role": "user", "content": "@@"}]
        chat = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        start, tail = chat.split("@@")
        return self.ids(start) + body, self.ids(tail)

    def _decoder(self, prompt: Prompt, text: Text) -> Tensor:
        start, tail = self.prompt_ids(prompt, text)
        space = " " if self.tokenizer.chat_template is None else ""

        def after(prefix: tuple[int, ...]) -> Tensor:
            ids = torch.tensor([[*start, *tail, *prefix]])
            logits: Tensor = self.model(input_ids=ids, use_cache=False).logits[0, -1]
            return logits

        words = [self.ids(space + word) for word in prompt.words]
        return constrained(words, self.tokenizer.eos_token_id, after, prompt.exclusive)

    def _encoder_decoder(self, prompt: Prompt, text: Text) -> Tensor:
        ids = torch.tensor([self.ids(f"{prompt.instruction}\n\n{body_of(text)}", special=True)])

        def after(prefix: tuple[int, ...]) -> Tensor:
            own = torch.tensor([[self.model.config.decoder_start_token_id, *prefix]])
            logits: Tensor = self.model(input_ids=ids, decoder_input_ids=own, use_cache=False).logits[0, -1]
            return logits

        words = [self.ids(word) for word in prompt.words]
        return constrained(words, self.tokenizer.eos_token_id, after, prompt.exclusive)

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
