"""What is to be run, in a closed description: from arguments, a YAML file, a preset and defaults."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peftu.answers import Kind
from peftu.asked import plain, with_guarded
from peftu.config import MethodSpec, RegionSpec, RunSpec, outside_brackets, validated
from peftu.data.task import TaskCard, tasks
from peftu.errors import PeftuError
from peftu.methods.everyone import is_personal, method_class
from peftu.outside import parse_yaml, plain_file
from peftu.preset import Preset, load_preset
from peftu.results import REFERENCES

BASELINES = ("global-majority", "user-majority")
GROUPS = ("split", "train")
MOST_SEEDS = 1000
DEFAULT_METHODS = {  # of a comparison that names none
    "labels": "user-majority,mixed-head@all-minilm-l6-v2,global,lora[warm_start=global]",
    "text": "zero-shot,global,lora[warm_start=global]",
}


def run_spec(
    task: str,
    *,
    card: TaskCard | None = None,
    methods: str | Sequence[str | MethodSpec | dict[str, Any]] | None = None,
    base: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    quantize: str | None = None,
    task_options: Mapping[str, Any] | None = None,
    regime: str | None = None,
    region: str | None = None,
    users: int | None = None,
    min_items: int | None = None,
    max_items: int | None = None,
    seeds: int | Sequence[int] | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    warm_start: str | None = None,
    shrink: float | None = None,
    preset: str | None = None,
    config: Path | str | None = None,
    baselines: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> RunSpec:
    """Returns the closed description of a run; of several places that say the same thing, the nearest to the user wins.

    ``settings`` win over the other arguments, those over the config file, that over the preset, that over defaults.

    Args:
        task: the task's name.
        card: the card of a task that is at hand as a table; None: the registered one of that name.
        methods: as 'a,b[key=value]@base' or one by one; None: the usual ones for the kind of task.
        base: of methods that name none.
        device: where bases compute: 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps'.
        dtype: the number type that they run in: 'auto', 'float32', 'bfloat16' or 'float16'.
        quantize: how the weights of their layers are held: 'none', 'int8' or 'nf4'.
        task_options: the task's own options.
        regime: how rows are split.
        users: at most this many.
        min_items: users with fewer are left out.
        max_items: at most this many of a user.
        region: where modules act, as 'depth=6,span=last'.
        seeds: how many, from 0 on, or which.
        epochs: passes over a user's items at most.
        lr: learning rate.
        warm_start: 'none' or 'global'.
        shrink: pull towards the warm start.
        preset: name of a preset, or a file that ``peftu tune`` wrote.
        config: YAML file with fields of ``RunSpec``.
        baselines: also run the majorities where no yardstick is among the methods.
        settings: fields of ``RunSpec`` by name, those in a group as 'train.batch'.

    Raises:
        PeftuError: an unknown key or an impossible value, named with its field.
    """
    rest = dict(settings or {})
    written = _read(Path(config)) if config is not None else {}
    name = _first(rest.pop("preset", None), preset, written.get("preset"))
    loaded = load_preset(str(name)) if name is not None else None
    values = _merged(_beneath(loaded, card or tasks.get(task).card), written) if loaded else written
    kind = _kind(task, card)
    default = DEFAULT_METHODS["text" if kind == "text" else "labels"]
    listed = _methods(_first(rest.pop("methods", None), methods, values.get("methods"), default))
    given = {
        "methods": with_baselines(listed) if baselines and kind != "text" else listed,
        "task": task,
        "base": base,
        "device": device,
        "dtype": dtype,
        "quantize": quantize,
        "seeds": _seeds(seeds) if isinstance(seeds, int) else seeds,
        "task_options": task_options and dict(task_options),
        "region": RegionSpec.parse(region).model_dump() if region is not None else None,
    }
    split = {"regime": regime, "users": users, "min_items": min_items, "max_items": max_items}
    train = {"epochs": epochs, "lr": lr, "warm_start": warm_start, "shrink": shrink}
    for group, near in ((values, given), (_group(values, "split"), split), (_group(values, "train"), train)):
        group.update({key: value for key, value in near.items() if value is not None})
    for key, value in rest.items():
        _put(values, key, value)
    spec = validated(RunSpec, values, "run")
    if loaded is None:
        return spec
    return spec.model_copy(update={"preset": str(name), "settings": _settings(loaded, spec)})


def _seeds(number: int) -> tuple[int, ...]:
    if not 1 <= number <= MOST_SEEDS:
        raise PeftuError(f"run: seeds: is {number} — give a number from 1 to {MOST_SEEDS}, or a list of seeds")
    return tuple(range(number))


def _kind(task: str, card: TaskCard | None) -> Kind | None:
    """Returns a task's kind of answers; None: nothing is known of it yet."""
    card = card or (tasks.get(task).card if task in tasks else None)
    return card.kind if card else None


def _first(*values: Any) -> Any:
    """Returns the first value that somebody wrote."""
    return next((value for value in values if value is not None), None)


def _settings(preset: Preset, spec: RunSpec) -> dict[str, dict[str, Any]]:
    """Returns method as asked for -> its settings, for the methods that the preset knows."""
    by_method: dict[str, dict[str, Any]] = {}
    for method in map(plain, with_guarded(spec.methods)):
        params = method.params
        if "warm_start" in spec.train and is_personal(method_class(method.name, params)):
            params = {"warm_start": spec.train["warm_start"], **params}
        settings = preset.settings(method.model_copy(update={"params": params}), method.base or spec.base)
        if settings is not None:
            by_method[str(method)] = settings
    return by_method


def _beneath(preset: Preset, card: TaskCard) -> dict[str, Any]:
    """Returns what a preset says of a whole run on a task."""
    values: dict[str, Any] = {"split": dict(preset.split), "train": dict(preset.train), "metric": dict(preset.metric)}
    if preset.base:
        values["base"] = preset.base
    if preset.region:
        values["region"] = preset.region.model_dump()
    if preset.task_preset in card.presets:
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
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str | dict | MethodSpec) for part in parts):
        raise PeftuError(f"run: methods: is {listed!r} — list methods, as [user-majority, 'lora[rank=4]']")
    if not parts:
        raise PeftuError("run: methods: names no method — write one, as lora")
    return tuple(map(_method, parts))


def _method(part: str | dict[str, Any] | MethodSpec) -> MethodSpec:
    if isinstance(part, MethodSpec):
        return part
    return MethodSpec.parse(part) if isinstance(part, str) else validated(MethodSpec, part, "run: methods")


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
    group: Any = values.setdefault(name, {})
    if not isinstance(group, dict):
        raise PeftuError(f"run: {name}: is {group!r}, not a group of settings — write '{name}=…', or its parts alone")
    return group


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
