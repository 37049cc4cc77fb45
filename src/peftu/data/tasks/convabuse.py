"""How abusive: what people wrote to conversational agents, on a scale from -3 to 1."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from peftu.data.reading import meta, once, read_csv
from peftu.data.task import LeftOut, Row, SourceFile, TaskCard

FILE = "ConvAbuseEMNLPfull.csv"
TURNS = ("prev_agent", "prev_user", "agent", "user")
STEPS = ("-3", "-2", "-1", "0", "1")


class ConvAbuse:
    """ConvAbuse, annotator by annotator."""

    card: ClassVar[TaskCard] = TaskCard(
        name="convabuse",
        version="1",
        title="Abuse of conversational agents (ConvAbuse)",
        description=(
            "What people wrote to the agents ELIZA and CarbonBot, with the three turns before, on a scale: 1 not "
            "abusive, 0 ambiguous, -1 mildly, -2 strongly, -3 very strongly abusive. Four equal turns are one item, "
            "named by its first example_no. The file holds repeats, meant to measure how far annotators agree with "
            "themselves: the first judgement is kept, the others are left out and counted: 12,182 of 12,768 "
            "stay, on 4,052 items. Beyond PEFT-U."
        ),
        user="One of eight annotators versed in gender studies.",
        kind="ordinal",
        labels=STEPS,
        words=("4", "3", "2", "1", "0"),
        instruction=(
            "How abusive is the user's last message to the chatbot? Answer 0 (not abusive), 1 (ambiguous), 2 (mildly), "
            "3 (strongly) or 4 (very strongly abusive)."
        ),
        main_metric="mae",
        language="en",
        licence="CC-BY-4.0",
        citation=(
            "Amanda Cercas Curry, Gavin Abercrombie, Verena Rieser (2021). ConvAbuse: Data, Analysis, and Benchmarks "
            "for Nuanced Abuse Detection in Conversational AI. EMNLP 2021. arXiv 2109.09483."
        ),
        homepage="https://github.com/amandacurry/convabuse",
        files=(
            SourceFile(
                name=FILE,
                url=f"https://raw.githubusercontent.com/amandacurry/convabuse/HEAD/1_full/{FILE}",
                sha256="c054ed30375651cd234930eada705fee6fcad79f86bdca45c1e557284b6b1af4",
                bytes=2541921,
            ),
        ),
        content_warning="Sexual harassment, slurs and threats.",
    )

    def rows(self, raw: Path) -> Iterator[Row | LeftOut]:
        """Yields every judgement in file order."""
        yield from once(self._all(raw))

    def _all(self, raw: Path) -> Iterator[Row]:
        item_of: dict[tuple[str, ...], str] = {}
        scale = {f"is_abuse.{step}": step for step in STEPS}
        for cells in read_csv(raw / FILE, ("example_no", "annotator_id", "bot", *TURNS, *scale)):
            turns = tuple(cells[turn] for turn in TURNS)
            item = item_of.setdefault(turns, cells["example_no"])
            context = f"Agent: {turns[0]}\nUser: {turns[1]}\nAgent: {turns[2]}"
            target = tuple(step for column, step in scale.items() if cells[column] == "1")
            yield Row(cells["annotator_id"], item, turns[3], target, context, meta=meta(bot=cells["bot"]))
