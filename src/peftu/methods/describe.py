"""What ``peftu methods`` tells."""

from typing import Any

from peftu.methods.method import methods

SHORT = ("name", "summary", "scope", "trained", "uses_others_labels", "needs_base", "loads")


def describe_methods() -> list[dict[str, Any]]:
    """Returns the main facts of every method."""
    return [methods.get(name).card.model_dump(mode="json", include=set(SHORT)) for name in methods.names()]


def describe_method(name: str) -> dict[str, Any]:
    """Returns a method's card and its knobs with their defaults.

    Raises:
        PeftuError: nothing has that name.
    """
    cls = methods.get(name)
    knobs = [
        {"knob": field, "default": info.default, "meaning": info.description or ""}
        for field, info in getattr(cls, "model_fields", {}).items()
    ]
    defaults = {key: getattr(cls, key, {}) for key in ("train_defaults", "warm_defaults")}
    return {**cls.card.model_dump(mode="json"), "knobs": knobs, **{k: v for k, v in defaults.items() if v}}
