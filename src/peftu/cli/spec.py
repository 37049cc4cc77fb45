"""A run's description from what was typed."""

from typing import Any

from peftu import experiment
from peftu.cli.data import assigned, task_options
from peftu.config import RunSpec
from peftu.errors import PeftuError

PASSED_ON = (
    *("device", "dtype", "quantize"),
    *("methods", "base", "regime", "region", "users", "min_items", "max_items", "seeds", "epochs", "lr", "warm_start"),
    *("shrink", "preset", "config"),
)


def run_spec(flags: dict[str, Any]) -> RunSpec:
    """Returns the run that flags, ``-s`` settings and a config file describe; ``-s`` wins over all else.

    Raises:
        PeftuError: an unknown key or an impossible value, named with its flag or field.
    """
    for name, value in flags.items():
        if isinstance(value, str) and not value.strip() and name != "task":  # a shell variable without a value
            raise PeftuError(f"--{name.replace('_', '-')}: is empty — give it a value, or leave it out")
    settings, task = assigned(flags["setting"], "-s", dotted=True), flags["task"]
    if settings.get("task", task) != task:
        raise PeftuError(f"-s: task={settings['task']} is another task than '{task}' — write it once")
    return experiment.run_spec(
        task,
        task_options=task_options(flags["option"]) or None,
        baselines=bool(flags.get("baselines")),
        settings=settings,
        **{name: flags.get(name) for name in PASSED_ON},
    )
