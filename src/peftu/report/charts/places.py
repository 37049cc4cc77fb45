"""Where names stand beside dots."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

Box = tuple[float, float, float, float]
Side = Literal["left", "right", "center"]

_LETTER, _LINE, _DOT = 7.0, 14.0, 6.0
_OFFSETS: tuple[tuple[float, float, Side], ...] = (
    (0, -14, "center"), (-7, -12, "right"), (7, -12, "left"), (-9, 0, "right"),
    (9, 12, "left"), (0, 14, "center"), (-7, 12, "right"), (9, 0, "left"),
    (9, 24, "left"), (9, -24, "left"), (-9, -24, "right"), (-9, 24, "right"),
)  # fmt: skip


class Label(NamedTuple):
    """A name and its dot, in pixels from the top left."""

    text: str
    x: float
    y: float


def place(
    labels: Sequence[Label], dots: Sequence[tuple[float, float]], size: tuple[int, int]
) -> list[tuple[float, float, Side]]:
    """Returns each label's offset from its dot and its alignment.

    Each takes the first place, of those around its dot, that covers least: other dots, names placed before, and what
    lies outside the plot. The widths of names are estimated.
    """
    taken = [(x - _DOT, y - _DOT, x + _DOT, y + _DOT) for x, y in dots]
    result = []
    for label in labels:
        boxes = [_box(label, offset) for offset in _OFFSETS]
        costs = [sum(_overlap(box, other) for other in taken) + 3 * _outside(box, size) for box in boxes]
        best = min(range(len(boxes)), key=costs.__getitem__)
        taken.append(boxes[best])
        result.append(_OFFSETS[best])
    return result


def _box(label: Label, offset: tuple[float, float, Side]) -> Box:
    dx, dy, side = offset
    width = _LETTER * len(label.text)
    left = label.x + dx - {"left": 0.0, "center": width / 2, "right": width}[side]
    return left, label.y + dy - _LINE / 2, left + width, label.y + dy + _LINE / 2


def _overlap(box: Box, other: Box) -> float:
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    return max(width, 0.0) * max(height, 0.0)


def _outside(box: Box, size: tuple[int, int]) -> float:
    """Returns the area of a box that lies outside the plot."""
    area = (box[2] - box[0]) * (box[3] - box[1])
    return area - _overlap(box, (0.0, 0.0, float(size[0]), float(size[1])))
