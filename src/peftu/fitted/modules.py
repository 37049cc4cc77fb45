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
from peftu.codes import CodeLayout, SharedLayout
from peftu.data.problem import Floats, Text
from peftu.errors import PeftuError
from peftu.fitted.fitted import Examples, Fitted, State, TaskAnswers
from peftu.fitted.rows import MemoryRows, ModuleRows
from peftu.generate import generate
from peftu.lab.lab import Item, Lab, prefill
from peftu.methods.joint import EncodingMethod, PopulationMethod
from peftu.plan import Job
from peftu.predict import score
from peftu.run_folder import empty_folder
from peftu.store import EVERYONE, checksum
from peftu.train import Examples as TrainRows
from peftu.train import Unit, train
from peftu.train_effects import likeliest_code
from peftu.train_joint import encoded

COMPARED = 4  # modules of which it is kept how they read where they were trained


class ModuleFitted(Fitted):
    """Modules of users on a base.

    Args:
        region: where the modules act.
        rows: module rows, of users or of everyone; None: the base answers as it is.
        common: [width] the row that users' training starts from, if it is not a fresh one; of a joint method, what all
            share.
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
    ) -> None:
        super().__init__(job, task, seed, lab, prompt, notes)
        self.region, self.rows, self.common = region, rows, common

    @property
    def base(self) -> FrozenBase:
        """Returns the base."""
        return self.lab.base(cast(str, self.job.base))

    @property
    def personal(self) -> bool:
        """Returns whether users have modules of their own."""
        return self.rows is not None and self.job.card.scope != "global"

    @property
    def users(self) -> tuple[str, ...]:
        """Returns the keys of all users with a module, sorted; none where there is one module for everyone."""
        return tuple(self.rows.keys()) if self.rows is not None and self.personal else ()

    def unknown(self, users: Sequence[str]) -> set[str]:
        """Returns those of the users that have no module."""
        return self.rows.missing(users) if self.rows is not None and self.personal else set(users)

    @cached_property
    def layout(self) -> Layout:
        """Returns the layout of the rows."""
        return Layout(self.job.method, self.base.sites(self.region, len(self.prompt.words)))

    @property
    def parameters(self) -> int:
        """Returns how many numbers a user has of their own."""
        return self.layout.parameters if self.personal else 0

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
        keys = list(dict.fromkeys(users)) if self.personal else [EVERYONE]
        place = {key: number for number, key in enumerate(keys)}
        units = np.array([place[user] if self.personal else 0 for user in users], dtype=np.int64)
        return self.rows.get(keys), units

    def read(self, users: Sequence[str], items: Sequence[Item]) -> Floats:
        """Returns [pairs, columns] readings of each text with its user's module."""
        if not items:
            return np.zeros((0, self.prompt.columns), dtype=np.float32)
        modules, units = self._modules(users)
        context, rows = self.lab.read(self.base.name, self.prompt, self.region, items)
        if modules is None:
            return score(self.base, context, rows, say=self.lab.reporter.note)
        return score(self.base, context, rows, self.layout, modules, units, say=self.lab.reporter.note)

    def write(
        self, users: Sequence[str], texts: Sequence[Text], temperature: float = 0.0, seeds: Sequence[int] = ()
    ) -> list[str]:
        """Returns a free answer to each text, written by the user's module."""
        self.check_users(users)
        progress = self.lab.reporter.stage(f"writing answers with {self.base.name}", len(texts))
        drawn: dict[str, Any] = {"temperature": temperature, "seeds": seeds, "progress": progress}
        modules, units = self._modules(users)
        if modules is None:
            return generate(self.base, self.prompt, texts, self.base.region(None), **drawn)
        return generate(self.base, self.prompt, texts, self.region, self.layout, modules, units, **drawn)

    def _unit(self, user: str, train: Examples, val: Examples) -> tuple[Any, Unit]:
        """Returns a context of these examples, and the user to train on it."""
        context, rows = self.lab.read(self.base.name, self.prompt, self.region, [*train.items, *val.items])
        parts = (
            TrainRows(places, examples.target, np.ones(len(examples), dtype=np.float32))
            for places, examples in ((rows[: len(train)], train), (rows[len(train) :], val))
        )
        return context, Unit(user, *parts)

    def _provenance(self, examples: Examples) -> dict[str, object]:
        """Returns what a module that was trained on these examples was made of."""
        content = json.dumps([[repr(item) for item in examples.items], examples.target.tolist()])
        data = f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"
        return {"source": "enrol", "data": data, "train": self.job.train.model_dump(mode="json")}

    def _enrol(self, user: str, train_examples: Examples, val: Examples) -> None:
        if self.rows is None:
            raise PeftuError(f"enrol: {self.label} has no modules — enrol in a personal method")
        if self.job.start is not None and self.common is None:  # of an earlier release
            raise PeftuError(f"enrol: {self.label} starts from everyone's module, which was not kept — run it again")
        context, unit = self._unit(user, train_examples, val)
        trained = train(self.base, context, self.layout, [unit], self.job.train, self.seed, self.common)
        if trained.logs[0].diverged:
            raise PeftuError(f"enrol: {self.label}: training diverged, nothing is changed — lower lr")
        self.rows.put(user, trained.rows[0], len(train_examples), self._provenance(train_examples))

    def _forget(self, user: str) -> None:
        cast(ModuleRows, self.rows).drop(user)

    def export(self, user: str, folder: Path | str) -> Path:
        """Returns the folder that now holds a user's module as peft writes it.

        Raises:
            PeftuError: the user is not known, the folder is not empty, or peft has no such kind of module.
        """
        from peftu.peft_io import export_module

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
        return cls(job, task, seed, lab, prompt, Region(**state.about["region"]), rows, row)


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
    def parameters(self) -> int:
        """Returns how many numbers a user's code has."""
        return self.layout.width

    def _enrol(self, user: str, train_examples: Examples, val: Examples) -> None:
        layout, rows = cast(CodeLayout, self.layout), cast(ModuleRows, self.rows)
        if isinstance(self.job.method, EncodingMethod):
            vectors = torch.from_numpy(self.lab.embed(self.base.name, self.prompt, train_examples.texts))
            places = np.arange(len(train_examples))
            read = TrainRows(places, train_examples.target, np.ones(len(places), dtype=np.float32))
            code = encoded(layout.shared_layout, layout.shared, [read], vectors)[0]
        elif isinstance(self.job.method, PopulationMethod):
            context, unit = self._unit(user, train_examples, val)
            code = likeliest_code(self.base, context, layout, unit.train)
        else:  # what is shared stays as it is, and the code learns as it did beside everybody's
            method = self.job.method
            spec = self.job.train.model_copy(
                update={"lr": self.job.train.lr * method.code_lr, "weight_decay": method.code_decay, "batch": 4}
            )
            context, unit = self._unit(user, train_examples, val)
            code = train(self.base, context, layout, [unit], spec, self.seed).rows[0]
        rows.put(user, code, len(train_examples), self._provenance(train_examples))
