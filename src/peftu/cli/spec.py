"""A run's description from flags and a YAML file."""

from pathlib import Path
from typing import Any

from peftu.asked import plain, with_guarded
from peftu.cli.data import assigned, task_options
from peftu.config import MethodSpec, RegionSpec, RunSpec, outside_brackets, validated
from peftu.data.task import tasks
from peftu.errors import PeftuError
from peftu.methods.everyone import is_personal, method_class
from peftu.outside import parse_yaml, plain_file
from peftu.preset import Preset, load_preset
from peftu.results import REFERENCES

BASELINES = ("global-majority", "user-majority")
GROUPS = {"split": ("regime", "users", "min_items", "max_items"), "train": ("epochs", "lr", "warm_start", "shrink")}

DEFAULT_METHODS = {  # of a comparison that names none
    "labels": "user-majority,mixed-head@all-minilm-l6-v2,global,lora[warm_start=global]",
    "text": "zero-shot,global,lora[warm_start=global]",
}


def run_spec(flags: dict[str, Any]) -> RunSpec:
    """Returns the run that flags, ``-s`` settings and a config file describe; what is nearer to the user wins.

    Raises:
        PeftuError: an unknown key or an impossible value, named with its flag or field.
    """
    _check_flags(flags)
    settings = assigned(flags["setting"], "-s", dotted=True)
    if settings.get("task", flags["task"]) != flags["task"]:
        raise PeftuError(f"-s: task={settings['task']} is another task than '{flags['task']}' — write it once")
    written = _read(flags["config"]) if flags["config"] else {}
    name = _first(settings.pop("preset", None), flags.get("preset"), written.get("preset"))
    preset = load_preset(str(name)) if name is not None else None
    values = _merged(_beneath(preset, flags["task"]), written) if preset else written
    values |= {key: flags[key] for key in ("task", "base") if flags[key] is not None}
    labelled = flags["task"] not in tasks or tasks.get(flags["task"]).card.answers.labelled
    default = DEFAULT_METHODS["labels" if labelled else "text"]
    values["methods"] = _methods(
        _first(settings.pop("methods", None), flags["methods"], values.get("methods"), default)
    )
    if flags.get("baselines") and labelled:
        values["methods"] = with_baselines(values["methods"])
    if flags["seeds"] is not None:
        values["seeds"] = tuple(range(flags["seeds"]))
    for group, keys in GROUPS.items():
        _group(values, group).update({key: flags[key] for key in keys if flags[key] is not None})
    if flags["option"]:
        values["task_options"] = task_options(flags["option"])
    if flags["region"]:
        values["region"] = RegionSpec.parse(flags["region"]).model_dump()
    for key, value in settings.items():
        _put(values, key, value)
    spec = validated(RunSpec, values, "run")
    if preset is None:
        return spec
    return spec.model_copy(update={"preset": str(name), "settings": _settings(preset, spec)})


def _check_flags(flags: dict[str, Any]) -> None:
    """Checks that no flag is empty, as one is whose shell variable has no value.

    Raises:
        PeftuError: one is.
    """
    for name, value in flags.items():
        if isinstance(value, str) and not value.strip() and name != "task":
            raise PeftuError(f"--{name.replace('_', '-')}: is empty — give it a value, or leave it out")


def _first(*values: Any) -> Any:
    """Returns the first value that somebody wrote."""
    return next((value for value in values if value is not None), None)


def _settings(preset: Preset, spec: RunSpec) -> dict[str, dict[str, Any]]:
    """Returns method as asked for -> its settings, for the methods that the preset knows."""
    found: dict[str, dict[str, Any]] = {}
    for method in map(plain, with_guarded(spec.methods)):
        params = method.params
        if "warm_start" in spec.train and is_personal(method_class(method.name, params)):
            params = {"warm_start": spec.train["warm_start"], **params}
        own = preset.settings(method.model_copy(update={"params": params}), method.base or spec.base)
        if own is not None:
            found[str(method)] = own
    return found


def _beneath(preset: Preset, task: str) -> dict[str, Any]:
    """Returns what a preset says of a whole run on a task."""
    values: dict[str, Any] = {"split": dict(preset.split), "train": dict(preset.train), "metric": dict(preset.metric)}
    if preset.base:
        values["base"] = preset.base
    if preset.region:
        values["region"] = preset.region.model_dump()
    if preset.task_preset in tasks.get(task).card.presets:
        values["task_options"] = {"preset": preset.task_preset}
    return values


def _merged(low: dict[str, Any], high: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings of both, group by group; the second wins."""
    both = {**low, **high}
    for key in low.keys() & high.keys():
        if isinstance(low[key], dict) and isinstance(high[key], dict):
            both[key] = {**low[key], **high[key]}
    return both


def with_baselines(methods: tuple[MethodSpec, ...]) -> tuple[MethodSpec, ...]:
    """Returns the methods with the majorities before them, which cost nothing, unless a yardstick is among them."""
    if any(method.name in (*REFERENCES, *BASELINES) for method in methods):
        return methods
    return (*(MethodSpec(name=name) for name in BASELINES), *methods)


def method_list(text: str) -> list[str]:
    """Returns the methods of 'a,b[k=v,l=[w,x]]@base,c'; commas inside brackets do not divide."""
    return [part for part in outside_brackets(text, ",") if part.strip()]


def _methods(listed: Any) -> tuple[MethodSpec, ...]:
    """Returns the methods that a flag or a config file lists, as text or in parts.

    Raises:
        PeftuError: something else is listed, or nothing.
    """
    parts = method_list(listed) if isinstance(listed, str) else listed
    if not isinstance(parts, list) or not all(isinstance(part, str | dict) for part in parts):
        raise PeftuError(f"run: methods: is {listed!r} — list methods, as [user-majority, 'lora[rank=4]']")
    if not parts:
        raise PeftuError("run: methods: names no method — write one, as lora")
    return tuple(
        MethodSpec.parse(part) if isinstance(part, str) else validated(MethodSpec, part, "run: methods")
        for part in parts
    )


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        values = _group(values, part)
    values[last] = value


def _group(values: dict[str, Any], name: str) -> dict[str, Any]:
    """Returns the settings that stand under a name, made if there are none.

    Raises:
        PeftuError: something else stands there.
    """
    found: Any = values.setdefault(name, {})
    if not isinstance(found, dict):
        raise PeftuError(f"run: {name}: is {found!r}, not a group of settings — write '{name}=…', or its parts alone")
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        read = parse_yaml(plain_file(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        raise PeftuError(f"{path}: cannot be read — pass a YAML file with --config") from None
    except ValueError as error:
        raise PeftuError(f"{path}: not valid YAML ({error}) — mend the file") from None
    if not isinstance(read, dict) or not all(isinstance(key, str) for key in read):
        raise PeftuError(f"{path}: holds no 'key: value' lines — see docs/runs.md for the keys of a run")
    return read
