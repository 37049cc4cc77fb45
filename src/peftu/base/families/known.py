"""The families of base models, and which types of hub models each reads: packages add theirs by entry points."""

from typing import Any

from peftu.base.families.family import Family
from peftu.errors import PeftuError
from peftu.registry import Registry

_HOME = "peftu.base.families"

families: Registry[type[Family]] = Registry(
    "family",
    {
        "decoder": f"{_HOME}.decoder:Decoder",
        "falcon": f"{_HOME}.falcon:Falcon",
        "encoder": f"{_HOME}.encoder:Encoder",
        "mpnet": f"{_HOME}.mpnet:MPNet",
        "modernbert": f"{_HOME}.modernbert:ModernBert",
        "deberta": f"{_HOME}.deberta:Deberta",
        "encoder-decoder": f"{_HOME}.encoder_decoder:EncoderDecoder",
        "bart": f"{_HOME}.encoder_decoder:Bart",
    },
)


def family_class(model_type: Any, name: str) -> type[Family]:
    """Returns the family of models of this type.

    Args:
        model_type: as config.json has it.
        name: what the user calls the base.

    Raises:
        PeftuError: peftu has not been checked on models of its type, and might read it wrongly without a sign.
    """
    known = _by_type()
    if isinstance(model_type, str) and model_type in known:
        return known[model_type]
    types = ", ".join(known)
    raise PeftuError(f"base {name}: peftu does not know models of type '{model_type}' — known: {types}")


def describe_types() -> list[dict[str, Any]]:
    """Returns one plain dict for each type of hub model that is read: its name, its kind, and what it can do."""
    return [
        {
            "type": name,
            "kind": family.kind,
            "spans": list(family.spans),
            "default_region": str(family.default_region),
            "prompts": bool(family.writers),
            "quantize": family.types[name].quantize,
        }
        for name, family in _by_type().items()
    ]


def _by_type() -> dict[str, type[Family]]:
    known = [families.get(name) for name in families.names()]
    return dict(sorted((name, family) for family in known for name in family.types))
