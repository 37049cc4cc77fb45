"""The routes: each checks who asks and how much, asks the service, and shapes the answer."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from peftu import __version__
from peftu.errors import PeftuError
from peftu.execute.receipt import lines
from peftu.serving import bodies
from peftu.serving.access import Caller
from peftu.serving.asked import Answered
from peftu.serving.compatible import add_openai
from peftu.serving.gate import Gate, problem
from peftu.serving.known import Who, add_lists, known_users
from peftu.serving.moment import moment
from peftu.serving.opened import Methods
from peftu.serving.page import add_page
from peftu.serving.problems import RefusedError, refused
from peftu.serving.processes import Passing
from peftu.serving.service import Served, Service

# What any request may be refused with: see `docs/serving.md`.
REFUSALS = (400, 401, 403, 404, 405, 408, 413, 415, 422, 429, 500, 503, 504)


def make_app(service: Service, shared: Path | None = None) -> FastAPI:
    """Returns the application around a service, which it starts and stops.

    Args:
        service: what answers.
        shared: folder of the processes that answer on one socket; None: this one does alone.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await run_in_threadpool(service.stop)

    app = FastAPI(
        title="peftu",
        version=__version__,
        lifespan=lifespan,
        responses={status: {"model": bodies.Problem} for status in REFUSALS},
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_middleware(Passing, folder=shared)
    app.add_middleware(Gate, access=service.access, limits=service.limits, metrics=service.metrics)
    _add_errors(app, service)
    _add_health(app, service)
    _add_answers(app, service)
    _add_people(app, service)
    add_lists(app, service)
    add_openai(app, service)
    add_page(app)
    return app


def _add_errors(app: FastAPI, service: Service) -> None:
    @app.exception_handler(PeftuError)
    async def mendable(request: Request, error: PeftuError) -> Response:
        return problem(refused(error, service.place), request.state.request_id)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]  # its input is somebody's text: it is not sent back, nor is a name that is not ours
        unknown = first["type"] == "extra_forbidden"
        place = ".".join(str(part) for part in first["loc"][: -1 if unknown else None])
        wrong = "an unknown field" if unknown else first["msg"]
        return problem(RefusedError(422, f"{place}: {wrong} — see /openapi.json"), request.state.request_id)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        answer = problem(RefusedError(error.status_code, str(error.detail)), request.state.request_id)
        answer.headers.update(error.headers or {})  # which methods are allowed
        return answer


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", tags=["health"])
    async def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["health"])
    async def readyz() -> dict[str, str]:
        """Questions are taken."""
        if not service.worker.alive:
            raise RefusedError(503, "the service is starting or stopping — ask again", retry_after=1)
        return {"status": "ready"}

    @app.get("/metrics", tags=["health"], responses={200: {"content": {"text/plain": {}}}})
    async def metrics(who: Who) -> Response:
        """Counts, times and sizes for Prometheus; no user, no text."""
        who.check("admin")
        return Response(service.metrics.page(), media_type="text/plain; version=0.0.4")


def _labelled(served: Served) -> Served:
    if not served.task.answers.labelled:
        raise RefusedError(422, f"{served.label}: writes free answers — ask /v1/generate")
    return served


def _add_answers(app: FastAPI, service: Service) -> None:
    limits = service.limits

    @app.post("/v1/predict", tags=["answers"])
    async def predict(body: bodies.PredictRequest, who: Who) -> bodies.PredictReply:
        """Labels and probabilities of each text as each user sees it."""
        who.check("read", body.users)
        served = _labelled(service.method(body.method))
        users, texts = bodies.check_pairs(body.users, body.inputs, limits)
        answered = await service.answers(users, texts, service.question(served.label, on_missing=body.on_missing))
        labels = served.task.labels
        return bodies.PredictReply(
            method=answered.method,
            seed=served.seed,
            labels=list(labels),
            notes=answered.notes,
            results=[
                bodies.UserAnswers(
                    **_answerer(answered, user),
                    answers=[_answer(row, labels) for row in answered.of(place, len(texts))],
                )
                for place, user in enumerate(users)
            ],
        )

    @app.post("/v1/generate", tags=["answers"])
    async def generate(body: bodies.GenerateRequest, who: Who) -> bodies.GenerateReply:
        """What each user writes to each text, for tasks of free answers."""
        who.check("read", body.users)
        served = service.method(body.method)
        if not served.writes:
            raise RefusedError(422, f"{served.label}: writes no free answers — ask /v1/predict")
        users, texts = bodies.check_pairs(body.users, body.inputs, limits)
        asked = body.model_dump(include={"on_missing", "temperature", "seed"})
        question = service.question(served.label, writes=True, tokens=body.max_tokens, **asked)
        answered = await service.answers(users, texts, question)
        return bodies.GenerateReply(
            method=answered.method,
            seed=served.seed,
            notes=answered.notes,
            results=[
                bodies.UserWritten(
                    **_answerer(answered, user),
                    answers=[row["answer"] for row in answered.of(place, len(texts))],
                )
                for place, user in enumerate(users)
            ],
        )

    @app.post("/v1/rank", tags=["answers"])
    async def rank(body: bodies.RankRequest, who: Who) -> bodies.RankReply:
        """Users by how likely they give a text a label; everybody, or those named."""
        served = _labelled(service.method(body.method))
        if body.label not in served.task.labels:
            raise RefusedError(422, f"label: is not one of {', '.join(served.task.labels)}")
        users = await _ranked_users(service, served, body.users, who)
        answered = await service.answers(
            users, [bodies.text_of(body.input, limits)], service.question(served.label, on_missing=body.on_missing)
        )
        return _ranking(served, users, answered, body)


async def _ranked_users(service: Service, served: Served, asked: list[str] | None, who: Caller) -> list[str]:
    if asked is not None:
        who.check("read", asked)
        return bodies.check_users(asked, service.limits)
    who.check("read")
    if not served.personal:
        raise RefusedError(422, f"{served.label}: answers everybody alike — name users, or a personal method")
    users = await known_users(service, served, who)
    if not users:
        raise RefusedError(404, f"{served.label}: knows nobody — enrol someone")
    return users


def _ranking(served: Served, users: list[str], answered: Answered, body: bodies.RankRequest) -> bodies.RankReply:
    chance = [row[f"p_{body.label}"] for row in answered.rows]
    order = sorted(range(len(users)), key=lambda place: (-chance[place], users[place]))[: body.top]
    return bodies.RankReply(
        method=answered.method,
        seed=served.seed,
        label=body.label,
        users=len(users),
        mean={label: fmean(row[f"p_{label}"] for row in answered.rows) for label in served.task.labels},
        notes=answered.notes,
        ranking=[
            bodies.Ranked(
                **_answerer(answered, users[place]),
                probability=chance[place],
            )
            for place in order
        ],
    )


def _answerer(answered: Answered, user: str) -> dict[str, Any]:
    """Returns whose answers these are, and what gave them."""
    answerer = answered.answerers[user]
    return {"user": user, "module": answerer.module, "fallback": answerer.fallback}


def _answer(row: dict[str, Any], labels: tuple[str, ...]) -> bodies.LabelAnswer:
    return bodies.LabelAnswer(labels=row["labels"], probabilities={label: row[f"p_{label}"] for label in labels})


def _add_people(app: FastAPI, service: Service) -> None:
    limits = service.limits

    @app.put("/v1/users/{key:path}/examples", tags=["people"], status_code=202)
    async def enrol(key: str, body: bodies.ExamplesRequest, who: Who) -> bodies.Enrolment:
        """Adds examples and trains a module on all there are; until it is there, whatever answered before goes on."""
        who.check("write", [bodies.check_key(key, limits)])
        served = service.method(body.method)
        if not served.personal:
            raise RefusedError(422, f"{served.label}: answers everybody alike — enrol in a personal method")
        if len(body.examples) > limits.examples:
            raise RefusedError(413, f"examples: are over {limits.examples:,} — send fewer")
        for place, example in enumerate(body.examples):
            _check_labels(served, place, example.labels)
        examples = [(bodies.text_of(example, limits), example.labels) for example in body.examples]
        change = service.people.enrol(key, served.label, examples, body.replace)
        return bodies.Enrolment(method=served.label, state=change.state)

    @app.get("/v1/users/{key:path}", tags=["people"])
    async def user(key: str, who: Who) -> bodies.UserReply:
        """What answers for a user, by method, and how far their latest enrolment is."""
        who.check("read", [bodies.check_key(key, limits)])
        hidden = key in service.people.hidden()
        modules = {} if hidden else await service.do(lambda methods: _modules(methods, key))
        change = service.people.enrolment(key)
        if not modules and change is None:
            raise RefusedError(404, "user: nobody here knows them — enrol them")
        enrolment = None
        if change is not None and change.method is not None:
            enrolment = bodies.Enrolment(
                method=change.method, state=change.state, error=change.error, seconds=change.seconds
            )
        return bodies.UserReply(modules=modules, enrolment=enrolment)

    @app.delete("/v1/users/{key:path}", tags=["people"])
    async def forget(key: str, who: Who) -> bodies.Receipt:
        """Deletes a user from every method; at once nobody answers for them, and when it ends the bytes are gone."""
        own = who.users is not None and key in who.users and "write" in who.scopes
        if not own:
            who.check("admin", [key])
        bodies.check_key(key, limits)
        receipt = await service.forgotten(key)
        remains = lines(receipt, lambda file: Path(file).name)  # the folder's place is not whoever asks' concern
        return bodies.Receipt(
            deleted={key: count for key, count in receipt.items() if key != "remains"}, remains=remains
        )


def _modules(methods: Methods, key: str) -> dict[str, str]:
    known = {label: methods.fresh(label) for label in methods.labels}
    return {
        label: now.modules[key]
        for label, fitted in known.items()
        if fitted.personal and key in (now := moment(fitted, [key])).modules
    }


def _check_labels(served: Served, place: int, labels: list[str]) -> None:
    answers = served.task.answers
    if (answers.exclusive or not answers.labelled) and len(labels) != 1:
        raise RefusedError(422, f"examples.{place}.labels: give one")
    if answers.labelled and not set(labels) <= set(served.task.labels):
        raise RefusedError(422, f"examples.{place}.labels: use {', '.join(served.task.labels)}")
