"""What modules of a store fit: one base, one layout, one method at one seed."""

import json
from dataclasses import dataclass
from typing import Any

from peftu.errors import PeftuError
from peftu.outside import parse_json

EVERYONE = ""  # the key of a module that all users share; a user table allows no empty user id
_RECIPE = ("method", "knobs", "region", "prompt", "labels")


@dataclass(frozen=True)
class Collection:
    """Modules that fit the same base and layout.

    Attributes:
        label: the method as it stands in the run.
        seed: the run's seed.
        base: name of the base.
        fingerprint: of the base's weights; modules answer on no other.
        width: numbers a module.
        recipe: JSON of everything needed to bind a row again (method, region, prompt, labels).
    """

    label: str
    seed: int
    base: str
    fingerprint: str
    width: int
    recipe: str

    @property
    def made(self) -> dict[str, Any]:
        """Returns the recipe, read.

        Raises:
            PeftuError: it is damaged.
        """
        try:
            read = parse_json(self.recipe, halves=True)
        except ValueError:
            read = None
        if not isinstance(read, dict) or not set(_RECIPE) <= set(read):
            raise PeftuError(f"modules of {self.label}: their recipe is damaged — restore the folder, or train again")
        return read


def recipe(**parts: object) -> str:
    """Returns the canonical JSON kept with a collection."""
    return json.dumps(parts, sort_keys=True, separators=(",", ":"))
