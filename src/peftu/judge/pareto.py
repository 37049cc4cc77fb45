"""What a score costs: which methods nobody beats at their price."""

from collections.abc import Sequence

from peftu.judge.shapes import ParetoPoint
from peftu.results import MethodResult

COSTS = ("bytes_per_user", "seconds_per_user", "ms_per_answer")


def pareto(results: Sequence[MethodResult], *, higher_is_better: bool) -> tuple[ParetoPoint, ...]:
    """Returns each scored method with the costs by which it is on the Pareto front.

    A method is on the front of a cost when no other is at least as good and as cheap, and better in one of the two.
    """
    sign = 1.0 if higher_is_better else -1.0
    scored = [result for result in results if result.mean is not None]

    def beaten(result: MethodResult, cost: str) -> bool:
        price = getattr(result, cost)
        for other in scored:
            paid = getattr(other, cost)
            if paid is None or paid > price or sign * (other.mean or 0.0) < sign * (result.mean or 0.0):
                continue
            if paid < price or sign * (other.mean or 0.0) > sign * (result.mean or 0.0):
                return True
        return False

    return tuple(
        ParetoPoint(
            system=result.system,
            mean=result.mean or 0.0,
            ci=result.ci,
            **{cost: getattr(result, cost) for cost in COSTS},
            front=tuple(cost for cost in COSTS if getattr(result, cost) is not None and not beaten(result, cost)),
        )
        for result in scored
    )
