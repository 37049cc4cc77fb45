"""What was found between the methods of a run, looked up by the name of what they are compared with."""

from collections.abc import Sequence
from dataclasses import dataclass

from peftu.answers import Kind, answers_of
from peftu.judge.decide import Decision
from peftu.judge.shapes import Comparison
from peftu.results import GLOBAL, MethodResult


@dataclass(frozen=True)
class Findings:
    """Methods of one run and their gains over reference methods.

    Attributes:
        methods: the results.
        gains: every method against each reference, corrected.
        kind: of the task.
    """

    methods: Sequence[MethodResult]
    gains: Sequence[Comparison]
    kind: Kind

    @property
    def bar(self) -> str:
        """Returns what a personal method must beat first: habit or, for free text, the model shared by all."""
        return answers_of(self.kind).references[0]

    @property
    def floor(self) -> str:
        """Returns what costs nothing: habit or, for free text, the base as it is."""
        return answers_of(self.kind).floor

    @property
    def personal(self) -> list[MethodResult]:
        """Returns the scored personal methods, in the order of their labels."""
        results = [method for method in self.methods if method.personal and method.mean is not None]
        return sorted(results, key=lambda method: method.label)

    @property
    def shared(self) -> list[MethodResult]:
        """Returns the scored models shared by all."""
        return [method for method in self.methods if method.name == GLOBAL and method.mean is not None]

    def over(self, method: MethodResult, name: str) -> Comparison | None:
        """Returns a method's gain over the reference of this name.

        Where that was run on several bases it is the one on the method's own base; where there is no such, None.
        """
        system = method.system
        gains = [gain for gain in self.gains if gain.system == system and gain.against.name == name]
        gains = [gain for gain in gains if gain.against.base == system.base] or gains
        return gains[0] if len(gains) == 1 else None

    def decision(self, method: MethodResult, name: str) -> Decision | None:
        """Returns whether a method is shown to be better than a reference; None where nobody compared them."""
        gain = self.over(method, name)
        return gain.decision if gain else None

    def corrected_for(self, gain: Comparison) -> int:
        """Returns for how many comparisons a gain's p-value was corrected."""
        references = list(dict.fromkeys(other.against for other in self.gains))
        before = references[: references.index(gain.against)]
        tested = [other for other in self.gains if other.against == gain.against and other.p is not None]
        return sum(other.system not in before for other in tested)
