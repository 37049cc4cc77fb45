"""Drawing by hash, exact part sizes, and dealing one user's items so that every label is spread over the parts."""

import hashlib
from collections.abc import Sequence
from fractions import Fraction


def hashed(*parts: object) -> int:
    """Returns a number of 64 bits drawn from these values; the same on every machine and Python version."""
    return int.from_bytes(hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest())


def part_sizes(number: int, fractions: Sequence[Fraction]) -> list[int]:
    """Returns how many of ``number`` things go to each part: largest remainders, the last part first on a tie.

    A part with a share gets at least one, taken from the largest, as long as there are enough.
    """
    sizes = rounded_sizes(number, fractions)
    for part, fraction in enumerate(fractions):
        if fraction and not sizes[part] and max(sizes) > 1:
            sizes[sizes.index(max(sizes))] -= 1
            sizes[part] = 1
    return sizes


def rounded_sizes(number: int, fractions: Sequence[Fraction]) -> list[int]:
    """Returns how many of ``number`` things go to each part by largest remainders alone; a part may stay empty."""
    exact = [number * fraction for fraction in fractions]
    sizes = [int(value) for value in exact]
    order = sorted(range(len(sizes)), key=lambda part: (exact[part] - sizes[part], part), reverse=True)
    for part in order[: number - sum(sizes)]:
        sizes[part] += 1
    return sizes


def deal(strata: Sequence[int], ranks: Sequence[int], sizes: Sequence[int], turn: int) -> list[int]:
    """Returns the part of each item: stratum after stratum, against a row of parts that are evenly mixed.

    Every stratum gets its share of every part to within about one item, and the parts get their exact sizes.

    Args:
        strata: stratum of each item.
        ranks: a random number for each item; ties keep the given order.
        sizes: items in each part; adds up to the number of items.
        turn: a random number that says where in the mixed row of parts dealing begins.
    """
    spread = sorted((((2 * nth + 1) / (2 * size), part) for part, size in enumerate(sizes) for nth in range(size)))
    mixed = [part for _, part in spread]
    order = sorted(range(len(strata)), key=lambda item: (strata[item], ranks[item]))
    parts = [0] * len(strata)
    for place, item in enumerate(order):
        parts[item] = mixed[(place + turn) % len(mixed)]
    return parts


def deal_multi(labels: Sequence[Sequence[int]], ranks: Sequence[int], sizes: Sequence[int]) -> list[int]:
    """Returns the part of each item by iterative stratification (Sechidis et al., 2011), with exact part sizes.

    The label with the fewest items left is dealt first, each item to the part that lacks that label most.

    Args:
        labels: the labels of each item, at least one.
        ranks: a random number for each item.
        sizes: items in each part; adds up to the number of items.
    """
    number = len(labels)
    room = list(sizes)
    waiting = {
        label: {item for item, item_labels in enumerate(labels) if label in item_labels}
        for item_labels in labels
        for label in item_labels
    }
    lacking = {label: [len(items) * size for size in sizes] for label, items in waiting.items()}  # times ``number``
    parts = [0] * number
    while waiting:
        label = min(waiting, key=lambda label: (len(waiting[label]), min(ranks[i] for i in waiting[label]), label))
        for item in sorted(waiting[label], key=lambda item: ranks[item]):
            part = max((p for p in range(len(sizes)) if room[p]), key=lambda p: (lacking[label][p], room[p], p))
            parts[item] = part
            room[part] -= 1
            for item_label in labels[item]:
                lacking[item_label][part] -= number
                waiting[item_label].discard(item)
        waiting = {label: items for label, items in waiting.items() if items}
    return parts
