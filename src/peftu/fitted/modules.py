"""Methods that train modules on a base: one for each user, one for everyone, or none at all (the base as it is)."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from peftu.bank import Layout
from peftu.base.model import FrozenBase
from peftu.base.prompt import Prompt
from peftu.base.region import Region
from peftu.base.writing import Hear
from peftu.codes import CodeLayout, SharedLayout
from peftu.data.problem import Floats, Text
from peftu.errors import PeftuError
from peftu.fitted.fitted import Examples, Fitted, State, TaskAnswers
from peftu.fitted.offsets import addable, without_own
from peftu.fitted.reference import ReferenceFitted
from peftu.fitted.rows import MemoryRows, ModuleRows
from peftu.generate import generate
from peftu.lab.lab import Item, Lab, prefill
from peftu.methods.joint import EncodingMethod, PopulationMethod
from peftu.plan import Job
from peftu.predict import score
from peftu.run_folder import empty_folder
from peftu.store import EVERYONE, checksum
from peftu.train import train
from peftu.train_effects import likeliest_code
from peftu.train_joint import encoded
from peftu.train_rows import Examples as TrainRows
from peftu.train_rows import Unit, divided, with_offset

COMPARED = 4  # modules of which it is kept how they read where they were trained


class ModuleFitted(Fitted):
    """Modules of users on a base.

    Args:
        region: where the modules act.
        rows: module rows, of users or of everyone; None: the base answers as it is.
        common: [width] the row that users' training starts from, if it is not a fresh one; of a joint method, what all
            share.
        offset: the fitted method that the modules' scores are added to; None: they stand alone.
    """

    kind = "module"
    common_name: ClassVar[str] = "start"  # of that row in a state

    def __init__(
        self,
        job: Job,
        task: TaskAnswers,
        seed: int,
        lab: Lab,
        prompt: Prompt,
        region: Region,
        rows: ModuleRows | None = None,
        common: Tensor | None = None,
        notes: dict[str, Any] | None = None,
        offset: ReferenceFitted | None = None,
    ) -> None:
        super().__init__(job, task, seed, lab, prompt, notes)
        self.region, self.rows, self.common, self.offset = region, rows, common, offset

    @property
    def base(self) -> FrozenBase:
        """Returns the base."""
        return self.lab.base(cast(str, self.job.base))

    @property
    def around(self) -> dict[str, Fitted]:
        """Returns the offset, if there is one."""
        return {} if self.offset is None else {"offset": self.offset}

    @property
    def of_users(self) -> bool:
        """Returns whether users have modules of their own."""
        return self.rows is not None and self.job.card.scope != "global"

    @property
    def _users_offset(self) -> ReferenceFitted | None:
        """Returns the offset, where users have something of their own in it."""
        return self.offset if self.offset is not None and self.offset.personal else None

    @property
    def personal(self) -> bool:
        """Returns whether users have modules or an offset of their own."""
        return self.of_users or self._users_offset is not None

    @property
    def users(self) -> tuple[str, ...]:
        """Returns the keys of all users with a module, sorted, where they have one; else of those with an offset."""
        if self.of_users:
            return tuple(cast(ModuleRows, self.rows).keys())
        return () if self._users_offset is None else self._users_offset.users

    def unknown(self, users: Sequence[str]) -> set[str]:
        """Returns those of the users that lack a module or an offset of their own."""
        if not self.personal:
            return set(users)
        missing = cast(ModuleRows, self.rows).missing(users) if self.of_users else set()
        return missing | (set() if self._users_offset is None else self._users_offset.unknown(users))

    def knows(self, user: str) -> bool:
        """Returns whether any module, one that is quarantined or revoked included, or an offset is a user's."""
        return self._has_module(user) or (self._users_offset is not None and self._users_offset.knows(user))

    def _has_module(self, user: str) -> bool:
        return self.rows is not None and self.of_users and self.rows.holds(user)

    @cached_property
    def layout(self) -> Layout:
        """Returns the layout of the rows."""
        return Layout(self.job.method, self.base.sites(self.region, len(self.prompt.words)))

    @property
    def parameters(self) -> int:
        """Returns how many numbers a user has of their own."""
        return self.module_parameters + (0 if self.offset is None else self.offset.parameters)

    @property
    def module_parameters(self) -> int:
        """Returns how many of them are the module's."""
        return self.layout.parameters if self.of_users else 0

    @property
    def made(self) -> dict[str, Any]:
        """Returns what a row needs beside itself to be read, as JSON values."""
        return {
            "method": self.job.card.name,
            "knobs": self.job.method.model_dump(mode="json"),
            "prompt": asdict(self.base.recorded(self.prompt)),
            "labels": list(self.task.labels),
            **self.numbers,
        }

    @property
    def numbers(self) -> dict[str, str]:
        """Returns the dtype and the quantisation of its base that its modules were trained in, perhaps elsewhere."""
        was = self.fitted_in or {}
        now = self.base.hardware
        return {"dtype": was.get("dtype") or now.dtype, "quantize": was.get("quantize") or now.quantize}

    def readings(self, items: Sequence[Item]) -> dict[str, Floats]:
        """Returns [items] the score or scores of each item with some of the modules, by checksum, or with none."""
        key = ("readings", self.base.name, self.prompt, self.region)
        context = self.lab.memo.get(key, lambda: prefill(self.base, self.prompt, items, self.region))
        places = np.arange(len(items))
        if self.rows is None:
            return {"base": score(self.base, context, places)}
        rows = self.rows.get(self.rows.keys()[:COMPARED])
        return {
            checksum(row): score(self.base, context, places, self.layout, row[None], np.zeros_like(places))
            for row in rows
        }

    def holding(self, marks: Sequence[str]) -> set[str]:
        """Returns those checksums that are of modules which are there."""
        return self.rows.holding(marks) if self.rows is not None else set(marks)

    def _modules(self, users: Sequence[str]) -> tuple[Tensor | None, npt.NDArray[np.int64]]:
        """Returns the rows [modules, width] that read pairs of these users, and which one reads each pair."""
        if self.rows is None:
            return None, np.zeros(len(users), dtype=np.int64)
        keys = list(dict.fromkeys(users)) if self.of_users else [EVERYONE]
        place = {key: number for number, key in enumerate(keys)}
        units = np.array([place[user] if self.of_users else 0 for user in users], dtype=np.int64)
        return self.rows.get(keys), units

    def read(self, users: Sequence[str], items: Sequence[Item]) -> Floats:
        """Returns [pairs, columns] readings of each text with its user's module."""
        if not items:
            return np.zeros((0, self.prompt.columns), dtype=np.float32)
        modules, units = self._modules(users)
        context, rows = self.lab.read(self.base.name, self.prompt, self.region, items)
        say = self.lab.reporter.note
        if modules is None:
            scores = score(self.base, context, rows, say=say)
        else:
            scores = score(self.base, context, rows, self.layout, modules, units, say=say)
        if self.offset is None:
            return scores
        base_scores = score(self.base, context, rows, say=say)
        added = addable(self.offset.read(users, items), base_scores, self.prompt)
        return with_offset(torch.from_numpy(scores), torch.from_numpy(added), self.prompt).numpy()

    def write(
        self,
        users: Sequence[str],
        texts: Sequence[Text],
        temperature: float = 0.0,
        seeds: Sequence[int] = (),
        hear: Hear | None = None,
    ) -> list[str]:
        """Returns a free answer to each text, written by the user's module."""
        self.check_users(users)
        progress = self.lab.reporter.stage(f"writing answers with {self.base.name}", len(texts))
        drawn: dict[str, Any] = {"temperature": temperature, "seeds": seeds, "progress": progress, "hear": hear}
        modules, units = self._modules(users)
        if modules is None:
            return generate(self.base, self.prompt, texts, self.base.region(None), **drawn)
        return generate(self.base, self.prompt, texts, self.region, self.layout, modules, units, **drawn)

    def _unit(self, user: str, train: Examples, val: Examples, offset: ReferenceFitted | None) -> tuple[Any, Unit]:
        """Returns a context of these examples, and the user to train on it."""
        items = [*train.items, *val.items]
        context, rows = self.lab.read(self.base.name, self.prompt, self.region, items)
        weight, added = np.ones(len(items), dtype=np.float32), None
        if offset is not None:
            scores = np.concatenate([without_own(offset, user, train), offset.read([user] * len(val), val.items)])
            added = addable(scores, score(self.base, context, rows), self.prompt)
        whole = TrainRows(rows, np.concatenate([train.target, val.target]), weight, added)
        return context, Unit(user, *divided(whole, len(train)))

    def _offset_with(self, user: str, examples: Examples) -> ReferenceFitted | None:
        """Returns the offset with a user fitted to these examples; the one here stays as it is."""
        return self.offset if self._users_offset is None else self._users_offset.with_user(user, examples)

    def _provenance(self, examples: Examples) -> dict[str, object]:
        """Returns what a module that was trained on these examples was made of."""
        content = json.dumps([[repr(item) for item in examples.items], examples.target.tolist()])
        data = f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"
        return {"source": "enrol", "data": data, "train": self.job.train.model_dump(mode="json")}

    def _enrol(self, user: str, train_examples: Examples, val: Examples) -> None:
        if self.rows is None:
            raise PeftuError(f"enrol: {self.label} has no modules — enrol in a personal method")
        offset = self._offset_with(user, train_examples)
        if not self.of_users:
            self.offset = offset
            return
        if self.job.start is not None and self.common is None:  # of an earlier release
            raise PeftuError(f"enrol: {self.label} starts from everyone's module, which was not kept — run it again")
        context, unit = self._unit(user, train_examples, val, offset)
        trained = train(self.base, context, self.layout, [unit], self.job.train, self.seed, self.common)
        if trained.logs[0].diverged:
            raise PeftuError(f"enrol: {self.label}: training diverged, nothing is changed — lower lr")
        self.rows.put(user, trained.rows[0], len(train_examples), self._provenance(train_examples))
        self.offset = offset

    def _forget(self, user: str) -> None:
        if self._has_module(user):
            cast(ModuleRows, self.rows).drop(user)
        if self._users_offset is not None and self._users_offset.knows(user):
            self.offset = self._users_offset.without_user(user)  # other methods of one lab may stand on the same

    def export(self, user: str, folder: Path | str) -> Path:
        """Returns the folder that now holds a user's module as peft writes it.

        Raises:
            PeftuError: the user is not known, the folder is not empty, peft has no such kind of module, or its scores
                are added to another method's.
        """
        from peftu.peft_io import export_module

        if self.offset is not None:
            other = self.offset.job.card.name
            raise PeftuError(f"export: {self.label} adds to what {other} says, which peft cannot — take offset out")
        self.check_users([user])
        place = empty_folder(Path(folder))
        row = self._modules([user])[0]
        if row is None:
            return super().export(user, folder)
        export_module(place, self.base, self.prompt, self.region, self.layout, row[0], self.made)
        return place

    def state(self) -> State:
        """Returns the region, whose rows there are, and the rows that are in memory."""
        about: dict[str, Any] = {"region": {"depth": self.region.depth, "span": self.region.span}}
        tensors = {} if self.common is None else {self.common_name: self.common.numpy()}
        if isinstance(self.rows, MemoryRows):
            about |= {"users": self.rows.order, "train_rows": self.rows.train_rows}
            tensors["rows"] = self.rows.rows.numpy()
        return State(about, tensors)

    @classmethod
    def of(
        cls, state: State, job: Job, task: TaskAnswers, seed: int, lab: Lab, prompt: Prompt, **beside: Any
    ) -> "ModuleFitted":
        """Returns the fitted method that `state` was taken of; rows that are kept in a store are passed as ``rows``."""
        common = state.tensors.get(cls.common_name)
        row = None if common is None else torch.from_numpy(common.copy())
        rows = beside.get("rows") or memory_rows(state)
        region = Region(**state.about["region"])
        return cls(job, task, seed, lab, prompt, region, rows, row, offset=beside.get("offset"))


def memory_rows(state: State) -> MemoryRows | None:
    """Returns the rows that a state holds, if it does."""
    if "rows" not in state.tensors:
        return None
    return MemoryRows(state.about["users"], torch.from_numpy(state.tensors["rows"].copy()), state.about["train_rows"])


class JointFitted(ModuleFitted):
    """Modules composed of what all share, which is common to them, and of a code for each user: the rows are codes."""

    kind = "joint"
    common_name = "shared"

    @cached_property
    def layout(self) -> Layout:
        """Returns the layout of the codes."""
        sites = self.base.sites(self.region, len(self.prompt.words))
        return CodeLayout(SharedLayout(self.job.method, sites), cast(Tensor, self.common))

    @property
    def module_parameters(self) -> int:
        """Returns how many of a user's numbers are the code's."""
        return self.layout.width

    def _enrol(self, user: str, train_examples: Examples, val: Examples) -> None:
        layout, rows = cast(CodeLayout, self.layout), cast(ModuleRows, self.rows)
        offset = self._offset_with(user, train_examples)
        if isinstance(self.job.method, EncodingMethod):
            vectors = torch.from_numpy(self.lab.embed(self.base.name, self.prompt, train_examples.texts))
            places = np.arange(len(train_examples))
            read = TrainRows(places, train_examples.target, np.ones(len(places), dtype=np.float32))
            code = encoded(layout.shared_layout, layout.shared, [read], vectors)[0]
        elif isinstance(self.job.method, PopulationMethod):
            context, unit = self._unit(user, train_examples, val, offset)
            code = likeliest_code(self.base, context, layout, unit.train)
        else:  # what is shared stays as it is, and the code learns as it did beside everybody's
            method = self.job.method
            spec = self.job.train.model_copy(
                update={"lr": self.job.train.lr * method.code_lr, "weight_decay": method.code_decay, "batch": 4}
            )
            context, unit = self._unit(user, train_examples, val, offset)
            code = train(self.base, context, layout, [unit], spec, self.seed).rows[0]
        rows.put(user, code, len(train_examples), self._provenance(train_examples))
        self.offset = offset
