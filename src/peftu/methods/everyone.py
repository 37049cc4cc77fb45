"""`global`: one module for all users, trained on everyone's labels; what a model that ignores who asks can reach."""

from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, cast

from pydantic import Field, create_model

from peftu.errors import PeftuError
from peftu.methods.method import methods
from peftu.registry import did_you_mean

NAME = "global"
DEFAULTS = {"epochs": 12, "batch": 16}


def method_class(name: str, knobs: Mapping[str, Any]) -> type[Any]:
    """Returns the class of a method: of `global`, that of the method which its knobs name.

    Raises:
        PeftuError: no such method, or one whose card has another name: its modules would be stored under that.
    """
    if name == NAME:
        return for_everyone(str(knobs.get("method", "lora")))
    cls = methods.get(name)
    if cls.card.name != name:
        raise PeftuError(
            f"method {name}: registered as '{name}', and its card says '{cls.card.name}' — give both one name"
        )
    return cls


@cache
def for_everyone(name: str) -> type[Any]:
    """Returns a method that trains modules of single users, as one module for all; a subclass of its class.

    Its training settings are the method's own, but for `DEFAULTS` and the method's ``everyone_defaults``.

    Raises:
        PeftuError: the method of that name trains no modules of single users.
    """
    if name == NAME or name not in methods or not is_personal(methods.get(name)):
        personal = [other for other in methods.names() if other != NAME and is_personal(methods.get(other))]
        raise PeftuError(f"method {NAME}: '{name}' trains no module of a user's own{did_you_mean(name, personal)}")
    cls = methods.get(name)
    knob: Any = (Literal[name], Field(name, description="Which method's module is trained on everyone."))
    made = cast(Any, create_model(f"Global{cls.__name__}", __base__=cls, __module__=__name__, method=knob))
    summary = f"One {name} module for all users, trained on everyone's labels."
    card_fields = {"name": NAME, "summary": summary, "scope": "global", "uses_others_labels": True}
    made.card = cls.card.model_copy(update=card_fields)
    defaults, everyone = (
        getattr(cls, name, {}) for name in ("train_defaults", "everyone_defaults")
    )  # a class may have none
    made.train_defaults = {**defaults, **DEFAULTS, **everyone}
    made.__reduce__ = lambda method: (_unpickled, (name, method.model_dump()))  # its class is no module's attribute
    return cast(type[Any], made)


def _unpickled(name: str, knobs: dict[str, Any]) -> Any:
    return for_everyone(name)(**knobs)


def is_personal(cls: type[Any]) -> bool:
    """Returns whether a method trains a module for each user on a base."""
    return hasattr(cls, "tensors") and cls.card.scope == "user"


Global = for_everyone("lora")  # what the name stands for when no method is named
