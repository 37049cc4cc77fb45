"""The routes of OpenAI's API, for methods that write: a model is ``<base>:<user>``, or ``<base>`` as it is."""

import json
import time
import uuid
from typing import Any

from fastapi import Depends, FastAPI, Request

from peftu.data.problem import Text
from peftu.serving import bodies
from peftu.serving.access import Caller
from peftu.serving.known import Who, known_users
from peftu.serving.problems import RefusedError
from peftu.serving.service import Served, Service

# What would change the answer, and the only values that leave it as it is here.
ALIKE: dict[str, tuple[Any, ...]] = {
    "n": (None, 1), "best_of": (None, 1), "stream": (None, False), "echo": (None, False), "stop": (None, []),
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

    @app.post("/v1/completions", tags=["openai"], dependencies=[Depends(_known)])
    async def completions(body: bodies.CompletionRequest, who: Who) -> dict[str, Any]:
        """What the user of the model writes to each prompt, which is a text of the task."""
        prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
        texts = [bodies.text_of(prompt, service.limits) for prompt in prompts]
        written, about = await _written(service, who, body.model, texts, body.temperature, body.max_tokens)
        choices = [
            {"index": place, "text": text, "logprobs": None, "finish_reason": "stop"}
            for place, text in enumerate(written)
        ]
        return _made("text_completion", "cmpl", body.model, choices, about)

    @app.post("/v1/chat/completions", tags=["openai"], dependencies=[Depends(_known)])
    async def chat(body: bodies.ChatRequest, who: Who) -> dict[str, Any]:
        """What the user of the model writes to the last message, with those before it as its context."""
        *earlier, last = body.messages
        context = "\n".join(f"{message.role}: {message.content}" for message in earlier) or None
        text = bodies.text_of(bodies.InputText(text=last.content, context=context), service.limits)
        tokens = body.max_completion_tokens or body.max_tokens
        (written,), about = await _written(service, who, body.model, [text], body.temperature, tokens)
        choice = {"index": 0, "message": {"role": "assistant", "content": written}, "finish_reason": "stop"}
        return _made("chat.completion", "chatcmpl", body.model, [choice], about)


def _made(kind: str, mark: str, model: str, choices: list[Any], about: dict[str, Any]) -> dict[str, Any]:
    made = {"id": f"{mark}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}
    return {**made, "choices": choices, "peftu": about}


def _writing(service: Service) -> list[Served]:
    """Returns a method of each base that writes: the default one, or the first personal one."""
    first: dict[str, Served] = {}
    ordered = sorted(service.served.values(), key=lambda served: (not served.personal, served.label))
    for served in ordered:
        if served.writes:
            first.setdefault(str(served.base), served)
    return list(first.values())


async def _written(
    service: Service, who: Caller, model: str, texts: list[Text], temperature: float, tokens: int | None
) -> tuple[list[str], dict[str, Any]]:
    """Returns what is written to each text, and who wrote it.

    Raises:
        RefusedError: no such model, or it is not the caller's.
    """
    if len(texts) > service.limits.inputs:
        raise RefusedError(413, f"prompt: over {service.limits.inputs:,} texts — ask less at once")
    for served in sorted(_writing(service), key=lambda served: -len(str(served.base))):
        if model == served.base:
            who.check("read")
            if who.users is not None:
                raise RefusedError(403, "this token is bound to users — ask for <base>:<user>")
            question = service.question(served.label, writes=True, bare=True, temperature=temperature, tokens=tokens)
            user = model
        elif model.startswith(f"{served.base}:"):
            user = bodies.check_key(model.removeprefix(f"{served.base}:"), service.limits)
            who.check("read", [user])
            question = service.question(served.label, writes=True, temperature=temperature, tokens=tokens)
        else:
            continue
        answered = await service.answers([user], texts, question)
        answerer = answered.answerers[user]
        about = {"method": answered.method, "module": answerer.module, "fallback": answerer.fallback}
        return [row["answer"] for row in answered.rows], about
    who.check("read")
    raise RefusedError(404, "model: is none that writes here — see /v1/models")
