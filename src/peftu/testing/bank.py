"""Many users' modules in the slots of one matrix, as the checks of methods serve them."""

from collections import OrderedDict

import torch
from torch import Tensor

from peftu.bank import Bound, Layout


class AdapterBank:
    """Slots for users' modules, with the least recently used user making room for a new one.

    A slot that nobody holds is all zero, which every method must read as 'the base unchanged'.

    Args:
        layout: of the modules.
        slots: how many users fit.
        device: where the rows live.
    """

    def __init__(self, layout: Layout, slots: int, device: torch.device | None = None) -> None:
        self.layout = layout
        self.rows = torch.zeros(slots, layout.width, device=device)
        self._slot: OrderedDict[str, int] = OrderedDict()
        self._free = list(range(slots))[::-1]

    def __contains__(self, key: str) -> bool:
        return key in self._slot

    def __len__(self) -> int:
        return len(self._slot)

    def put(self, key: str, row: Tensor) -> int:
        """Returns the slot that now holds this user's module row [width]."""
        if row.shape != self.rows.shape[1:]:  # before anything is noted: else the key would get another's module
            raise ValueError(f"row is {tuple(row.shape)}, not {tuple(self.rows.shape[1:])}")
        if key not in self._slot:
            if not self._free:
                _, slot = self._slot.popitem(last=False)
                self._free.append(slot)
            self._slot[key] = self._free.pop()
        self._slot.move_to_end(key)
        self.rows[self._slot[key]] = row.to(self.rows)
        return self._slot[key]

    def drop(self, key: str) -> None:
        """Forgets a user's module and clears its slot."""
        slot = self._slot.pop(key)
        self.rows[slot] = 0
        self._free.append(slot)

    def slot(self, key: str) -> int:
        """Returns the slot of a user who is in the bank.

        Raises:
            KeyError: the user is not in the bank; there is no silent fallback to the base.
        """
        self._slot.move_to_end(key)
        return self._slot[key]

    def bind(self, slots: Tensor) -> Bound:
        """Returns the modules in these slots [G], bound to a batch of G equal groups of rows."""
        return self.layout.bind(self.layout.views(self.rows[slots]), len(slots))
