"""What methods are called where people read: a plain name first, the id that a command takes beneath or in brackets."""

from peftu.system import System

_NAMES = {
    "user-majority": "each user's habit",
    "global-majority": "everyone's commonest label",
    "global": "one shared model",
    "zero-shot": "the base as it is",
    "few-shot": "some of a user's answers in the prompt",
    "retrieval": "a user's most similar answers in the prompt",
    "profile": "a user's description in the prompt",
    "mixed-head": "mixed head",
    "history": "mixed head that looks at a user's items",
    "lora": "LoRA",
    "alora": "activated LoRA",
    "vera": "VeRA",
    "ia3": "(IA)³",
    "bitfit": "biases only",
    "prompt-tuning": "prompt tuning",
    "prefix-tuning": "prefix tuning",
    "p-tuning": "P-tuning",
    "adapter-houlsby": "adapters of Houlsby",
    "adapter-pfeiffer": "adapters of Pfeiffer",
    "personal-head": "a personal last layer",
    "full": "all weights",
    "user-embedding": "shared LoRA with a vector a user",
    "user-token": "shared LoRA with a token a user",
    "random-effects": "shared LoRA with random effects a user",
    "lore": "low-rank mixed head",
    "hypernet": "a network that writes modules",
}
_KNOBS = {"warm_start=global": "started from everyone's", "offset=mixed-head": "on top of the mixed head"}
_SUFFIXES = {"guard": "only where it pays"}
BENEATH = "\n"  # between a name and what stands beneath it


def plain(system: System) -> str:
    """Returns 'LoRA, started from everyone's (r=4)' for lora[r=4,warm_start=global]; an unknown name as it is.

    Two methods of one run have two plain names: what has no words of its own stands in brackets.
    """
    name, other = _words(system)
    return f"{name} ({', '.join(other)})" if other else name


def _words(system: System) -> tuple[str, list[str]]:
    """Returns a method's plain name, and the knobs that it does not tell."""
    name, plus, suffix = system.name.partition("+")
    words = [_NAMES.get(name, name)]
    known: list[str] = []
    other: list[str] = []
    for knob in system.knobs:
        (known if knob in _KNOBS else other).append(knob)
    words += [_KNOBS[knob] for knob in known]
    if plus:
        words.append(_SUFFIXES.get(suffix, f"+{suffix}"))
    return ", ".join(words), other


def named(system: System) -> str:
    """Returns 'LoRA (lora[r=4]@a-base)': the plain name with the label; once where they are one."""
    name = _words(system)[0]
    return name if name == system.label else f"{name} ({system.label})"


def beneath(system: System) -> str:
    """Returns the label, to stand beneath the plain name; empty where they are one."""
    return system.label if plain(system) != system.label else ""


def above(system: System) -> str:
    """Returns the plain name with the label beneath it, for the first cell of a row."""
    name = plain(system)
    return name if name == system.label else f"{capital(name)}{BENEATH}{system.label}"


def drawn(system: System) -> str:
    """Returns the names of a chart: the plain name, beneath it what tells it from others of that name and its base."""
    name, knobs = _words(system)
    below = " · ".join(filter(None, (", ".join(knobs), system.base)))
    name = capital(name)
    return f"{name}{BENEATH}{below}" if below else name


def capital(text: str) -> str:
    """Returns a sentence with its first letter large."""
    return text[:1].upper() + text[1:]
