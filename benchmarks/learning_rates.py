"""Learning rates of the trained methods, by validation loss on seeds that no reported result uses.

    python benchmarks/learning_rates.py --raw DIR [METHOD ...] [--users 5] [--items 100] [--seeds 10] [--rates R ...]

Prints one JSON line a method and rate: the validation loss at each user's best epoch (of joint methods: at everybody's)
and before any step, averaged over users and seeds, and the seconds a user. Half of a user's items are trained on and
40 % validate, so that few users tell something; test rows are split off and never read.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from peftu.cells.fits import Fits
from peftu.config import MethodSpec, RunSpec, SplitSpec
from peftu.data.load import load_task
from peftu.data.splits import make_problem, make_split
from peftu.lab.progress import Silent
from peftu.plan import plan

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
METHODS = {  # from the first to the last rate worth trying
    "lora": (3e-4, 3e-3),
    "ia3": (3e-3, 3e-2),
    "vera": (3e-3, 3e-2),
    "bitfit": (1e-3, 1e-2),
    "adapter-houlsby": (1e-4, 3e-3),
    "adapter-pfeiffer": (1e-4, 3e-3),
    "adapter-pfeiffer[parallel=true]": (1e-4, 3e-3),
    "personal-head": (3e-4, 1e-2),
    "full[max_users=99]": (1e-4, 3e-4),
    "prompt-tuning": (3e-2, 3e-1),
    "prefix-tuning": (1e-2, 1e-1),
    "p-tuning": (1e-3, 1e-2),
    "user-embedding": (1e-3, 1e-2),
    "user-token": (1e-3, 1e-2),
    "hypernet": (1e-3, 1e-2),
}


def main() -> None:
    """Trains each method at each of its rates and prints what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, help="folder with one folder a data set; otherwise downloaded")
    parser.add_argument("methods", nargs="*", default=list(METHODS))
    parser.add_argument("--users", type=int, default=5)
    parser.add_argument("--rates", type=float, nargs="+", help="instead of the method's own")
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--seeds", type=int, nargs="+", default=[10])
    asked = parser.parse_args()
    table = load_task("tweeteval", asked.raw and asked.raw / "tweeteval", {})
    split = SplitSpec(users=asked.users, max_items=asked.items, fractions=(0.5, 0.4, 0.1))
    problems = {seed: make_problem(table, table.card, make_split(table, split, seed)) for seed in asked.seeds}
    fits = Fits(table.card, problems, 256, Silent())
    for name in asked.methods:
        low, high = METHODS[name]
        for rate in asked.rates or [rate for rate in RATES if low <= rate <= high]:
            method = MethodSpec.parse(name)
            (job,) = plan(RunSpec(task="tweeteval", methods=(method,), train={"lr": rate}))
            cells = [fits.run(job, seed) for seed in asked.seeds]
            logs = [log for cell in cells for log in cell.logs]
            told = {
                "method": name,
                "lr": rate,
                "val_loss": round(float(np.mean([log.best_loss for log in logs])), 4),
                "start_loss": round(float(np.mean([log.start_loss for log in logs])), 4),
                "best_epoch": round(float(np.mean([log.best_epoch for log in logs])), 1),
                "seconds_per_user": round(
                    sum(cell.seconds for cell in cells) / sum(len(p.users) for p in problems.values()), 1
                ),
            }
            print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
