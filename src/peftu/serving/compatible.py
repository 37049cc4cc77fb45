"""The routes of OpenAI's API, for methods that write: a model is ``<base>:<user>``, or ``<base>`` as it is."""

import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from fastapi import Depends, FastAPI, Request
from starlette.responses import StreamingResponse

from peftu.errors import PeftuError
from peftu.serving import bodies
from peftu.serving.access import Caller
from peftu.serving.asked import Answered, Question
from peftu.serving.known import Who, known_users
from peftu.serving.problems import RefusedError
from peftu.serving.service import Served, Service

# What would change the answer, and the only values that leave it as it is here.
ALIKE: dict[str, tuple[Any, ...]] = {
    "n": (None, 1), "best_of": (None, 1), "echo": (None, False), "stop": (None, []),
    "stream_options": (None, {}, {"include_usage": False}),
    "logprobs": (None, False, 0), "top_logprobs": (None, 0), "suffix": (None, ""), "tools": (None, []),
    "functions": (None, []), "top_p": (None, 1, 1.0), "presence_penalty": (None, 0, 0.0),
    "frequency_penalty": (None, 0, 0.0), "logit_bias": (None, {}), "response_format": (None, {"type": "text"}),
}  # fmt: skip


async def _known(request: Request) -> None:
    """Checks that nothing is asked for which would be left out in silence.

    Raises:
        RefusedError: something is.
    """
    body = json.loads(await request.body() or "null")
    for name, value in body.items() if isinstance(body, dict) else ():
        if name in ALIKE and not any(value == known and type(value) is type(known) for known in ALIKE[name]):
            raise RefusedError(400, f"{name}: is not offered here — leave it out")


def add_openai(app: FastAPI, service: Service) -> None:
    """Adds the routes to an application."""
    streams: dict[int, Any] = {200: {"content": {"text/event-stream": {}}}}
    written: Any = {"dependencies": [Depends(_known)], "response_model": dict[str, Any], "responses": streams}

    @app.get("/v1/models", tags=["openai"])
    async def models(who: Who) -> dict[str, Any]:
        """The bases that write, and a model for each user that the caller may ask for."""
        who.check("read")
        names = []
        for served in _writing(service):
            names += [str(served.base)] if who.users is None else []
            names += [f"{served.base}:{user}" for user in await known_users(service, served, who)]
        made = [{"id": name, "object": "model", "created": 0, "owned_by": "peftu"} for name in dict.fromkeys(names)]
        return {"object": "list", "data": made}

    @app.post("/v1/completions", tags=["openai"], **written)
    async def completions(body: bodies.CompletionRequest, who: Who) -> Any:
        """What the user of the model writes to each prompt, which is a text of the task."""
        prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
        texts = [bodies.text_of(prompt, service.limits) for prompt in prompts]
        user, question = _asked(service, who, body, body.max_tokens, len(texts))

        def choice(index: int, text: str, end: str | None) -> dict[str, Any]:
            return {"index": index, "text": text, "logprobs": None, "finish_reason": end}

        made = _made("text_completion", "cmpl", body.model)
        if body.stream:
            return await _streamed(
                service.heard(user, texts, question), lambda *said: {**made, "choices": [choice(*said)]}
            )
        answered = await service.answers([user], texts, question)
        choices = [choice(place, row["answer"], "stop") for place, row in enumerate(answered.rows)]
        return {**made, "choices": choices, "peftu": _about(answered, user)}

    @app.post("/v1/chat/completions", tags=["openai"], **written)
    async def chat(body: bodies.ChatRequest, who: Who) -> Any:
        """What the user of the model writes to the last message, with those before it as its context."""
        *earlier, last = body.messages
        context = "\n".join(f"{message.role}: {message.content}" for message in earlier) or None
        text = bodies.text_of(bodies.InputText(text=last.content, context=context), service.limits)
        user, question = _asked(service, who, body, body.max_completion_tokens or body.max_tokens)
        if body.stream:
            part = _made("chat.completion.chunk", "chatcmpl", body.model)

            def piece(index: int, text: str, end: str | None) -> dict[str, Any]:
                delta = {} if end else {"role": "assistant", "content": text}
                return {**part, "choices": [{"index": index, "delta": delta, "finish_reason": end}]}

            return await _streamed(service.heard(user, [text], question), piece)
        answered = await service.answers([user], [text], question)
        message = {"role": "assistant", "content": answered.rows[0]["answer"]}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        return {**_made("chat.completion", "chatcmpl", body.model), "choices": choices, "peftu": _about(answered, user)}


async def _streamed(
    events: AsyncIterator[tuple[int, str] | Answered], piece: Callable[[int, str, str | None], dict[str, Any]]
) -> StreamingResponse:
    """Returns an answer in pieces, sent as they are written; what is refused is refused before the first.

    Args:
        events: a text's place and what is written to it so far, then all that was answered.
        piece: what is sent, given a text's place, what is new of its answer, and why it ended.
    """
    first, sent = await anext(events), dict[int, str]()

    def grown(place: int, text: str, last: bool) -> Iterator[str]:
        whole = text if last else text.rstrip("\ufffd").rstrip()  # half a character, or a space that may go
        if new := whole[len(sent.get(place, "")) :]:
            sent[place] = whole
            yield _event(piece(place, new, None))
        if last:
            yield _event(piece(place, "", "stop"))

    async def pieces() -> AsyncIterator[str]:
        event = first
        try:
            while not isinstance(event, Answered):
                for line in grown(*event, last=False):
                    yield line
                event = await anext(events)
            for place, row in enumerate(event.rows):
                for line in grown(place, row["answer"], last=True):
                    yield line
        except PeftuError as error:
            yield _event({"error": {"message": str(error), "type": "service"}})
        yield "data: [DONE]\n\n"

    return StreamingResponse(pieces(), media_type="text/event-stream")


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"


def _made(kind: str, mark: str, model: str) -> dict[str, Any]:
    return {"id": f"{mark}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def _about(answered: Answered, user: str) -> dict[str, Any]:
    answerer = answered.answerers[user]
    return {"method": answered.method, "module": answerer.module, "fallback": answerer.fallback}


def _writing(service: Service) -> list[Served]:
    """Returns a method of each base that writes: the default one, or the first personal one."""
    first: dict[str, Served] = {}
    ordered = sorted(service.served.values(), key=lambda served: (not served.personal, served.label))
    for served in ordered:
        if served.writes:
            first.setdefault(str(served.base), served)
    return list(first.values())


def _asked(
    service: Service,
    who: Caller,
    body: bodies.CompletionRequest | bodies.ChatRequest,
    tokens: int | None,
    texts: int = 1,
) -> tuple[str, Question]:
    """Returns whom a request asks, and how.

    Raises:
        RefusedError: no such model, or it is not the caller's; or too many texts.
    """
    if texts > service.limits.inputs:
        raise RefusedError(413, f"prompt: over {service.limits.inputs:,} texts — ask less at once")
    asked: dict[str, Any] = {"writes": True, "temperature": body.temperature, "seed": body.seed, "tokens": tokens}
    for served in sorted(_writing(service), key=lambda served: -len(str(served.base))):
        if body.model == served.base:
            who.check("read")
            if who.users is not None:
                raise RefusedError(403, "this token is bound to users — ask for <base>:<user>")
            return body.model, service.question(served.label, bare=True, **asked)
        if body.model.startswith(f"{served.base}:"):
            user = bodies.check_key(body.model.removeprefix(f"{served.base}:"), service.limits)
            who.check("read", [user])
            return user, service.question(served.label, **asked)
    who.check("read")
    raise RefusedError(404, "model: is none that writes here — see /v1/models")
