"""A visitor in a real Chromium, who notes each request and each line of the console."""

from typing import Any

import pytest

WIDE, NARROW, PHONE = {"width": 1400, "height": 900}, {"width": 400, "height": 800}, {"width": 360, "height": 740}


class Visit:
    """Opens addresses, one after the other.

    Args:
        browser: Playwright's.
        options: of each context.
    """

    def __init__(self, browser: Any, **options: Any) -> None:
        self.browser, self.options = browser, options
        self.address = ""
        self.said: list[str] = []
        self.asked: list[str] = []

    def __call__(self, address: str, size: dict[str, int] = WIDE, scheme: str = "light", scripts: bool = True) -> Any:
        self.address = address
        self.context = self.browser.new_context(
            viewport=size, color_scheme=scheme, java_script_enabled=scripts, **self.options
        )
        self.context.set_default_timeout(60_000)
        page = self.context.new_page()
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))
        page.goto(address)
        return page

    def close(self) -> None:
        self.context.close()


def check_accessible(page: Any, width: int) -> None:
    """Checks that axe-core finds nothing, and that the page does not scroll sideways."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    found = axe.Axe().run(page).response["violations"]
    assert [(one["id"], one["impact"], one["nodes"][0]["html"]) for one in found] == []
    assert page.evaluate("document.documentElement.scrollWidth") == width, "the page scrolls sideways"
