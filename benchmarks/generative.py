"""Perplexity of people's own answers under shared and personal modules; docs/generative.md's table comes from its JSON.

    python benchmarks/generative.py --raw DIR      # DIR holds one folder a site with its Posts.xml
    python benchmarks/generative.py --table        # print the tables of the committed JSON

A site that the JSON holds with the same settings is not run again, so a broken-off run goes on where it stopped.
Nothing is chosen here: settings are the methods' defaults, and training stops by each user's validation answers.
"""

import argparse
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "generative.json"
METHODS = ("zero-shot", "global", "lora[warm_start=global]")
SITES = ("matheducators", "beer")


def spec_of(site: str, users: int, items: int, tokens: int) -> Any:
    """Returns what is run on a site."""
    from peftu.config import MethodSpec, RunSpec, SplitSpec

    return RunSpec(
        task=f"stackexchange-{site}",
        split=SplitSpec(fractions=(0.7, 0.1, 0.2), users=users, max_items=items),
        methods=tuple(MethodSpec.parse(method) for method in METHODS),
        max_answer_tokens=tokens,
    )


def measure(spec: Any, raw: Path, out: Path) -> dict[str, Any]:
    """Returns one site's leaderboard with what it was made from and where."""
    from peftu.cli.progress import progress
    from peftu.execute.run import How, run

    with progress() as shown:
        _, record = run(spec, out / spec.task, raw, reporter=shown, how=How(if_exists="overwrite"))
    split = spec.split.model_dump(mode="json", include={"fractions", "users", "max_items"})
    return {
        **record.cli_json(),
        "seed": spec.seeds[0],
        "limits": {**split, "max_tokens": spec.max_tokens, "max_answer_tokens": spec.max_answer_tokens},
        "warnings": list(record.warnings),
        "truncated_texts": record.truncated_texts,
        "environment": record.environment.model_dump(mode="json"),
        "cost": record.cost.model_dump(mode="json"),
        "load": round(os.getloadavg()[0], 1),
        "date": datetime.now(UTC).date().isoformat(),
    }


def table(site: dict[str, Any]) -> str:
    """Returns a site's leaderboard in Markdown, best first."""
    lines = [
        "| method | perplexity [95 % interval] | less than zero-shot | less than global | s a user |",
        "|---|---|---|---|---|",
    ]
    for row in sorted(site["methods"], key=lambda method: method["mean"]):
        gains = " | ".join(_change(row["gain"][reference]) for reference in ("zero-shot", "global"))
        low, high = row["ci"]
        mean = f"{row['mean']:.2f} [{low:.2f}, {high:.2f}]"
        lines.append(f"| {row['method']} | {mean} | {gains} | {row['seconds_per_user']:.1f} |")
    return "\n".join(lines)


def _change(gain: dict[str, Any]) -> str:
    low, high = gain["ci"]
    return f"{gain['mean']:+.2f} [{low:+.2f}, {high:+.2f}]"


def main() -> None:
    """Measures what is missing, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--raw", type=Path, help="folder with one folder a site, its name or name_YEAR")
    parser.add_argument("--out", type=Path, default=Path("runs") / "generative")
    parser.add_argument("--sites", default=",".join(SITES))
    parser.add_argument("--users", type=int, default=8, help="at most this many users a site")
    parser.add_argument("--items", type=int, default=15, help="at most this many answers a user")
    parser.add_argument("--tokens", type=int, default=40, help="longest answer, in tokens")
    parser.add_argument("--table", action="store_true", help="print the tables of the committed JSON")
    arguments = parser.parse_args()
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    if not arguments.table:
        if arguments.raw is None:
            parser.error("--raw is needed")
        for site in arguments.sites.split(","):
            spec = spec_of(site, arguments.users, arguments.items, arguments.tokens)
            if results.get(spec.task, {}).get("run") == spec.run_id:
                continue
            folder = next(path for path in sorted(arguments.raw.glob(f"{site}*")) if path.is_dir())
            results[spec.task] = measure(spec, folder, arguments.out)
            RESULTS.parent.mkdir(exist_ok=True)
            RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for name, site in results.items():
        print(f"\n{name}, {site['users']} users, seed {site['seed']}, {site['date']}\n")
        print(table(site))


if __name__ == "__main__":
    main()
