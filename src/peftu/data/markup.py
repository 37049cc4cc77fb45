"""Web pages' markup as plain text."""

import re
from html.parser import HTMLParser

BLOCKS = frozenset(
    ["p", "div", "blockquote", "pre", "ul", "ol", "table", "tr", "hr", "h1", "h2", "h3", "h4", "h5", "h6"]
)
HIDDEN = frozenset(["script", "style"])


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.text = ""
        self._open = {"hidden": 0, "pre": 0}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._count(tag, 1)
        if tag in BLOCKS:
            self._new_block()
        elif tag in ("li", "br"):
            self.text += "\n- " if tag == "li" else "\n"

    def handle_endtag(self, tag: str) -> None:
        self._count(tag, -1)
        if tag in BLOCKS:
            self._new_block()

    def handle_data(self, data: str) -> None:
        if self._open["hidden"]:
            return
        if not self._open["pre"]:
            data = re.sub(r"\s+", " ", data)
            if self.text.endswith(("\n", " ")):
                data = data.lstrip()
        self.text += data

    def _count(self, tag: str, step: int) -> None:
        kind = "hidden" if tag in HIDDEN else tag
        if kind in self._open:
            self._open[kind] = max(0, self._open[kind] + step)

    def _new_block(self) -> None:
        if not self.text.endswith("\n- "):  # a paragraph that opens a list item stays on its line
            self.text += "\n\n"


def plain_text(html: str) -> str:
    """Returns what a reader of an HTML fragment sees: paragraphs apart, list items on lines of their own."""
    parser = _Text()
    parser.feed(html)
    parser.close()
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+\n", "\n", parser.text)).strip()
