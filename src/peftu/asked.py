"""What a run is asked for, with what that needs: a guarded method needs the method itself and something else."""

from collections.abc import Sequence

from peftu.config import MethodSpec
from peftu.results import REFERENCES

SUFFIX = "+guard"


def with_guarded(methods: Sequence[MethodSpec]) -> tuple[MethodSpec, ...]:
    """Returns the methods with those that guarded ones need, where they were not asked for: the method itself, and
    user-majority where there is nothing to fall back to.
    """  # noqa: D205
    result: list[MethodSpec] = []
    for method in methods:
        if method.name.endswith(SUFFIX) and plain(method) not in (*result, *methods):
            result.append(plain(method))
        result.append(method)
    wanted = any(method.name.endswith(SUFFIX) for method in methods)
    if wanted and not any(method.name in REFERENCES for method in result):
        result.insert(0, MethodSpec(name=REFERENCES[0]))
    return tuple(result)


def plain(method: MethodSpec) -> MethodSpec:
    """Returns the method that a guarded one guards."""
    return method.model_copy(update={"name": method.name.removesuffix(SUFFIX)})
