"""Who is known, what is served, and what the caller may do with it: what a client asks first."""

from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request, Security
from fastapi.security import HTTPBearer

from peftu.serving import bodies
from peftu.serving.access import Caller
from peftu.serving.opened import Methods
from peftu.serving.problems import RefusedError
from peftu.serving.service import Served, Service


async def caller_of(  # async, else a thread is asked for it
    request: Request, _: Annotated[Any, Security(HTTPBearer(auto_error=False))]
) -> Caller:
    """Returns whoever asks, as the gate found; that it asks for a token is for OpenAPI."""
    caller: Caller = request.state.caller
    return caller


Who = Annotated[Caller, Depends(caller_of)]


async def known_users(service: Service, served: Served, who: Caller) -> list[str]:
    """Returns the users whom a method knows and the caller may ask about, sorted; of a method without users, nobody."""
    if not served.personal:
        return []
    known = await service.do(lambda methods: methods.fresh(served.label).users)
    hidden = service.people.hidden()
    return [user for user in known if user not in hidden and (who.users is None or user in who.users)]


def add_lists(app: FastAPI, service: Service) -> None:
    """Adds the routes to an application."""

    @app.get("/v1/methods", tags=["people"])
    async def methods(who: Who) -> bodies.MethodsReply:
        """What is served, which method answers where a request names none, and what the caller may do."""
        who.check("read")
        everyone = await service.do(_everyone)
        try:
            default = service.method(None).label
        except RefusedError:
            default = None
        return bodies.MethodsReply(
            methods=[
                bodies.Method(
                    method=label,
                    task=served.task.name,
                    kind=served.task.kind,
                    labels=list(served.task.labels),
                    base=served.base,
                    personal=served.personal,
                    everyone=everyone[label],
                )
                for label, served in service.served.items()
            ],
            default=default,
            scopes=sorted(who.scopes),
            users=None if who.users is None else sorted(who.users),
        )

    @app.get("/v1/users", tags=["people"])
    async def users(
        who: Who, limit: Annotated[int, Query(ge=1, le=10_000)] = 100, method: str | None = None
    ) -> bodies.UsersReply:
        """The first users by key whom a method knows: of all, for admin; else those that the token is bound to."""
        who.check("read" if who.users is not None else "admin")
        known = await known_users(service, service.method(method), who)
        return bodies.UsersReply(users=known[:limit], total=len(known))


def _everyone(methods: Methods) -> dict[str, str | None]:
    found = {label: methods.for_everyone(methods.fresh(label)) for label in methods.labels}
    return {label: every.label if every is not None else None for label, every in found.items()}
