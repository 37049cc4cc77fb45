"""Where the numbers come from, and how to get them again."""

import json

from peftu.report.blocks import Block, Code, Facts, Section
from peftu.report.view import RunView


def made(view: RunView) -> Section:
    """Returns the command, hashes, environment and the whole specification."""
    record, where = view.record, view.record.environment
    facts = (
        ("Run", f"{record.run}, {record.status}, {record.created:%Y-%m-%d %H:%M} UTC"),
        ("User table", record.hashes.data),
        *((f"Split, seed {seed}", digest) for seed, digest in record.hashes.splits.items()),
        *((f"Base {name}", fingerprint) for name, fingerprint in record.hashes.bases.items()),
        ("Machine", f"{where.platform}, {where.cpu}, {where.cores} cores, Python {where.python}"),
        ("Packages", ", ".join(f"{name} {version}" for name, version in sorted(where.packages.items()))),
        ("Source revision", where.git or "installed package"),
    )
    blocks: list[Block] = [Code(record.command)] if record.command else []
    blocks.append(Facts(facts))
    blocks.append(Code(_json(record.spec), "The whole specification, every default filled in"))
    notes = {result.label: result.notes for result in view.ranked if result.notes}
    if notes:
        blocks.append(Code(_json(notes), "Choices the methods made on validation data"))
    return Section("made", "How to reproduce this", "Reproduce", tuple(blocks))


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
