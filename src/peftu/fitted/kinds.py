"""What fits a method of each kind, and what opens it again: a kind is a line here."""

from collections.abc import Callable

from peftu.base.prompt import Prompt
from peftu.data.problem import Problem
from peftu.fitted.fitted import Fitted
from peftu.fitted.guarded import GuardedFitted
from peftu.fitted.modules import JointFitted, ModuleFitted
from peftu.fitted.prompted import PromptedFitted, fit_prompted
from peftu.fitted.reference import ReferenceFitted, fit_reference
from peftu.fitted.training import Modules, fit_joint, fit_modules, fit_untrained
from peftu.lab.lab import Lab
from peftu.plan import Job, kind_of

FittedNow = tuple[Fitted, Modules | None]  # with how the training of modules went
Fit = Callable[[Problem, Job, int, Lab, Prompt], FittedNow]

FITS: dict[str, Fit] = {
    "reference": fit_reference,
    "module": fit_modules,
    "joint": fit_joint,
    "prompted": fit_prompted,
    "untrained": fit_untrained,
}
KINDS: dict[str, type[Fitted]] = {
    kind.kind: kind for kind in (ReferenceFitted, ModuleFitted, JointFitted, PromptedFitted, GuardedFitted)
}


def fit(problem: Problem, job: Job, seed: int, lab: Lab, prompt: Prompt) -> FittedNow:
    """Returns a job fitted on a problem's train rows; choices are made on its validation rows."""
    return FITS[kind_of(job.method)](problem, job, seed, lab, prompt)
