"""Named settings of a whole run: the paper's protocol, and what tuning found.

A preset stands beneath everything the user writes: flags, ``-s`` settings and a method's own brackets win over it.
"""

from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import Field

from peftu.config import MethodSpec, RegionSpec, Spec, validated
from peftu.errors import PeftuError
from peftu.outside import parse_json, plain_file
from peftu.registry import did_you_mean

ANY_BASE = "*"
WARM = "global+"  # before a method's name: its settings when it starts from everyone's module


class Preset(Spec):
    """Settings for runs, and how they were found."""

    name: str
    note: str = Field(description="What the settings are and where they come from, in a sentence or two.")
    base: str | None = None
    region: RegionSpec | None = None
    split: dict[str, Any] = Field(default_factory=dict)
    train: dict[str, Any] = Field(default_factory=dict, description="Training settings of every method.")
    task_preset: str | None = Field(None, description="Preset of the task's own options, where the task has it.")
    metric: dict[str, str] = Field(default_factory=dict, description="Kind of task -> main metric in its card's place.")
    methods: dict[str, dict[str, dict[str, Any]]] = Field(
        default_factory=dict, description="Base, or '*' for any -> method -> its knobs and training settings."
    )
    found: dict[str, Any] = Field(
        default_factory=dict, description="Base -> method -> how: task, seeds, budgets, machine."
    )

    def settings(self, method: MethodSpec, base: str | None) -> dict[str, Any] | None:
        """Returns the settings of a method on a base: those for any base, then the base's own.

        None: the preset says nothing of it, neither by name nor by training settings of every method.
        """
        warm = method.params.get("warm_start") == "global"
        name = WARM + method.name if warm else method.name
        layers = [of[name] for on in (ANY_BASE, base or "") if name in (of := self.methods.get(on, {}))]
        return {key: value for settings in layers for key, value in settings.items()} if layers or self.train else None


def shipped() -> list[str]:
    """Returns the names of the presets that come with peftu, sorted."""
    return sorted(file.name.removesuffix(".json") for file in _folder().iterdir() if file.name.endswith(".json"))


def load_preset(name: str) -> Preset:
    """Returns a preset that comes with peftu, or one that ``peftu tune`` wrote to a JSON file.

    Raises:
        PeftuError: there is no such preset, or the file is not one.
    """
    path = Path(name)
    if path.suffix != ".json":
        if name not in shipped():
            raise PeftuError(f"preset '{name}' is not known{did_you_mean(name, shipped())}, or pass a .json file")
        text = (_folder() / f"{name}.json").read_text(encoding="utf-8")
    else:
        try:
            text = plain_file(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise PeftuError(f"{path}: cannot be read — pass a preset that 'peftu tune' wrote") from None
    try:
        values = parse_json(text, finite=True)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise PeftuError(f"{name}: not a preset — pass a JSON file that 'peftu tune' wrote")
    return validated(Preset, values, f"preset {name}")


def _folder() -> Any:
    return files("peftu") / "presets"
