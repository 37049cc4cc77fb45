"""The service's page in a real Chromium, on a real port: what a person does there is what the service does."""

import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
import torch
import uvicorn
from visiting import PHONE, WIDE, Visit, check_accessible

import peftu
from peftu.serving.access import Access, Token
from peftu.serving.app import make_app
from peftu.serving.limits import Limits
from peftu.serving.service import Service
from peftu.testing.bases import save_tiny

torch.set_num_threads(1)
pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

PICTURES = os.environ.get("PEFTU_PICTURES")  # a folder: pictures of the page go there, docs/page.png among them
LORA, MIXED = "lora[rank=2]", "mixed-head[features=tfidf]"
PEOPLE = {"Ana": ("rude",), "Ben": (), "Chi": ("rude", "loud"), "Dora": ("loud",), "Émile / 2": ("odd",)}
TEXT = "What a rude and loud reply."


def rows() -> Iterator[dict[str, str]]:
    """Yields what each person says of comments: everybody minds words of their own."""
    words = ("rude", "loud", "odd", "kind", "long", "short")
    for user, minded in PEOPLE.items():
        for number in range(30):
            first, second = words[number % 6], words[(number // 6 + number + 1) % 6]
            text = f"Comment {number} is a {first} and {second} reply."
            yield {"user": user, "text": text, "label": "harmful" if {first, second} & set(minded) else "fine"}


def make_run(home: Path) -> Path:
    """Returns a run that trained a tiny base and a mixed head for these people."""
    save_tiny("llama", home / "llama")
    task = peftu.from_frame(pl.DataFrame(list(rows())), user="user", text="text", label="label", name="comments")
    settings: dict[str, Any] = {"epochs": 2, "region": "depth=1,span=answer", "baselines": False}
    methods = f"global[rank=1],{LORA},{MIXED}"
    peftu.compare(task, methods, base=str(home / "llama"), out=home / "run", **settings)
    return home / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PEFTU_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield make_run(tmp_path_factory.mktemp("page"))


@contextmanager
def served(place: Path, **options: Any) -> Iterator[str]:
    """Yields the address of a service."""
    service = Service(place, **options)
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(make_app(service), log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def address(run: Path) -> Iterator[str]:
    with served(run, methods=[LORA, MIXED, "global[rank=1]"], limits=Limits(characters=500)) as address:
        yield address


@pytest.fixture
def visit(browser: Any) -> Iterator[Visit]:
    """Afterwards only the service may have been asked, and nothing been complained of but what it refused."""
    visit = Visit(browser)
    yield visit
    visit.close()
    assert [line for line in visit.said if not line.startswith("Failed to load resource")] == []
    assert {url for url in visit.asked if not url.startswith(visit.address)} == set()


def predicted(address: str, users: list[str], text: str = TEXT, method: str = LORA) -> dict[str, dict[str, float]]:
    """Returns user -> probabilities, as the service gives them to anybody."""
    body = {"users": users, "inputs": [text], "method": method}
    results = httpx.post(f"{address}/v1/predict", json=body, timeout=60).json()["results"]
    return {one["user"]: one["answers"][0]["probabilities"] for one in results}


def asked(page: Any, people: list[str], text: str = TEXT) -> None:
    """Asks these people about a text."""
    page.get_by_role("checkbox").first.wait_for()
    for box in page.locator("#people input").all():
        box.set_checked(box.input_value() in people)
    page.get_by_label("Text", exact=True).fill(text)
    page.get_by_role("button", name="Ask them").click()
    page.locator("#headline").wait_for()
    page.locator("#ask button.main[aria-disabled=false]").wait_for()


def shown(figure: Any) -> dict[str, tuple[str, float, float | None]]:
    """Returns label -> the percentage in words, the bar's share of its track, and the mark's place on it."""
    return {
        name: (words, own, crowd)
        for name, words, own, crowd in figure.locator(".bars li").evaluate_all(
            """all => all.map(one => {
                const track = one.querySelector(".track").getBoundingClientRect();
                const share = (part) => part && (part.x + part.width * (part === own ? 1 : .5) - track.x) / track.width;
                const own = one.querySelector(".own").getBoundingClientRect();
                const crowd = one.querySelector(".crowd")?.getBoundingClientRect();
                const words = one.innerText.split("\\n").find(words => /%/.test(words));
                return [one.querySelector(".name").textContent, words, share(own), crowd ? share(crowd) : null];
            })"""
        )
    }


def told(page: Any, form: str) -> str:
    """Returns the one line that says why something was not done."""
    line = page.locator(f"{form} .problem:not(:empty)")
    line.wait_for()
    return str(line.inner_text())


@pytest.mark.skipif(not PICTURES, reason="no folder in PEFTU_PICTURES")
def test_a_picture_for_the_docs(visit: Visit, address: str) -> None:
    page = visit(address, {"width": 1100, "height": 800})
    page.get_by_label("Method").select_option(MIXED)
    page.get_by_label("Somebody else's key").fill("Finn")
    page.keyboard.press("Enter")
    asked(page, ["Ana", "Ben", "Finn"])
    for text, label in (("How odd.", "harmful"), ("A kind one.", "fine"), (TEXT, "fine")):
        page.locator("#example").fill(text)
        page.get_by_label("Person").select_option("Finn")
        page.get_by_role("radio", name=label).check()
        page.get_by_role("button", name="Train", exact=True).click()
        page.locator("#change-lines", has_text="Trained on").wait_for()
        page.locator("#teach button.main[aria-disabled=false]").wait_for()
    page.evaluate("for (const id of ['teach', 'choice']) document.getElementById(id).hidden = true")
    page.locator("main").screenshot(path=Path(PICTURES or "") / "page.png", animations="disabled")
    httpx.delete(f"{address}/v1/users/Finn", timeout=60)


# --- asking -----------------------------------------------------------------------------------------------------------


def test_people_are_compared_with_each_other_and_the_crowd(visit: Visit, address: str) -> None:
    page = visit(address)
    asked(page, ["Ana", "Ben"])
    everybody = predicted(address, sorted(PEOPLE))
    cards = page.locator("#cards figure")
    assert cards.count() == 2
    for card, user in zip(cards.all(), ("Ana", "Ben"), strict=True):
        assert card.locator("strong").inner_text().startswith(f"{user}: ")
        for label, (words, own, crowd) in shown(card).items():
            chance = everybody[user][label]
            mean = sum(one[label] for one in everybody.values()) / len(everybody)
            assert words == f"{chance:.0%}".replace("%", "\u202f%")
            assert own == pytest.approx(chance, abs=0.02)
            assert crowd == pytest.approx(mean, abs=0.02)
    assert "mean of all 5 people" in page.locator("#keys").inner_text()
    assert page.evaluate("document.activeElement.id") == "headline"
    page.get_by_label("Method").select_option(MIXED)
    assert not page.locator("#answers").is_visible(), "another method's answers are not left standing"
    asked(page, list(PEOPLE))
    everybody = predicted(address, sorted(PEOPLE), method=MIXED)
    says = {user: max(chances, key=lambda label: chances[label]) for user, chances in everybody.items()}
    agree = len(set(says.values())) == 1
    assert page.locator("#headline").inner_text().startswith("All 5 agree" if agree else "They disagree")


def test_whoever_has_no_module_is_not_answered_for(visit: Visit, address: str) -> None:
    page = visit(address)
    page.get_by_label("Somebody else's key").fill("nobody")
    page.keyboard.press("Enter")
    asked(page, ["Ana", "nobody"])
    assert page.locator("#lines").get_by_text("nobody", exact=True).is_visible()
    lacking = page.locator("#cards figure", has_text="No module here")
    assert lacking.locator(".bars").count() == 0
    assert page.locator("#headline").inner_text().startswith("Ana: ")


def test_what_the_service_refuses_is_said_in_its_own_line(visit: Visit, address: str) -> None:
    page = visit(address)
    page.get_by_role("checkbox").first.wait_for()
    page.get_by_label("Text", exact=True).fill("x" * 501)
    page.get_by_role("button", name="Ask them").click()
    assert told(page, "#ask") == "text: is over 500 characters — shorten it"
    for box in page.locator("#people input").all():
        box.uncheck()
    page.get_by_label("Text", exact=True).fill("short")
    page.get_by_role("button", name="Ask them").click()
    page.get_by_text("nobody is chosen").wait_for()
    page.get_by_role("button", name="Train").click()
    assert told(page, "#teach").startswith("nobody is chosen")


# --- teaching and deleting --------------------------------------------------------------------------------------------


def test_an_example_changes_the_module(visit: Visit, address: str) -> None:
    page = visit(address)
    asked(page, ["Chi", "Dora"])
    before = predicted(address, ["Chi"])["Chi"]
    page.get_by_role("button", name="Teach Chi").click()
    assert page.get_by_label("Text they labelled").input_value() == TEXT
    page.get_by_role("radio", name="fine").check()
    page.get_by_role("button", name="Add to the list").click()
    page.get_by_label("Text they labelled").fill("Another rude one.")
    page.get_by_role("radio", name="fine").check()
    page.get_by_role("button", name="Train", exact=True).click()
    assert told(page, "#teach").startswith("examples: what this user's module was trained on is not here")
    page.get_by_label("These are all").check()
    page.get_by_role("button", name="Train", exact=True).click()
    page.locator("#changed").wait_for()
    assert page.locator("#examples li").count() == 0, "the service has them"
    after = predicted(address, ["Chi"])["Chi"]
    assert after != before
    for side, chances in (("before", before), ("after", after)):
        for label, (_, own, _) in shown(page.locator(f"#sides .{side}")).items():
            assert own == pytest.approx(chances[label], abs=0.02)
    assert page.locator("#changed").inner_text().startswith("Chi's module ")
    assert "2 examples alone" in page.locator("#change-lines").inner_text()
    now = httpx.get(f"{address}/v1/users/Chi", timeout=60).json()["modules"]
    module = next(digest for method, digest in now.items() if method.startswith(LORA))
    assert module[:20] in page.locator("#change-lines").inner_text()
    own = shown(page.locator("#cards figure", has_text="Chi"))
    assert own["fine"][1] == pytest.approx(after["fine"], abs=0.02), "answers above are asked anew"


def test_a_newcomer_gets_a_module(visit: Visit, address: str) -> None:
    page = visit(address)
    page.get_by_label("Somebody else's key").fill("new/../comer")
    page.get_by_role("button", name="Add", exact=True).click()
    asked(page, ["new/../comer"])
    page.get_by_role("button", name="Teach new/../comer").click()
    page.get_by_role("radio", name="harmful").check()
    page.get_by_role("button", name="Train", exact=True).click()
    page.locator("#changed").wait_for()
    assert page.locator("#changed").inner_text().startswith("new/../comer has a module now: ")
    assert shown(page.locator("#cards figure")).keys() == {"fine", "harmful"}
    httpx.delete(f"{address}/v1/users/new%2F..%2Fcomer", timeout=60)


def test_a_person_is_deleted_for_good_with_a_receipt(visit: Visit, address: str) -> None:
    user = "Émile / 2"
    page = visit(address)
    asked(page, ["Ana", user])
    page.get_by_role("button", name=f"Delete {user}").click()
    page.get_by_role("button", name="Keep them").click()
    page.get_by_role("button", name=f"Delete {user}").click()
    page.keyboard.press("Escape")
    assert set(predicted(address, [user])) == {user}, "who is kept is there"
    page.get_by_role("button", name=f"Delete {user}").click()
    page.get_by_role("button", name="Delete for good").click()
    page.locator("#deleted").wait_for()
    assert page.locator("#deleted").inner_text() == f"{user} is deleted"
    receipt = page.locator("#deletion").inner_text()
    for words in ("methods: 2", "modules: 1", "request ", "was fitted with the user's labels"):
        assert words in receipt
    assert httpx.get(f"{address}/v1/users/%C3%89mile%20%2F%202", timeout=60).status_code == 404
    page.locator("#cards figure").first.wait_for()
    assert page.locator("#cards figure").count() == 1
    assert user not in page.locator("#people").inner_text()


# --- whoever asks -----------------------------------------------------------------------------------------------------


def token(word: str, *scopes: Any, users: list[str] | None = None) -> Token:
    digest = hashlib.sha256(word.encode()).hexdigest()
    return Token(name=word, sha256=digest, scopes=frozenset(scopes), users=None if users is None else frozenset(users))


def test_a_token_opens_what_it_may(visit: Visit, run: Path) -> None:
    tokens = [
        token("reader", "read"), token("metrics", "admin"), token("own", "read", "write", users=["Ana"]),
    ]  # fmt: skip
    with served(run, methods=[LORA, "global[rank=1]"], access=Access(tokens)) as address:
        page = visit(address)
        for word, line in (("wrong", "no valid bearer token"), ("metrics", "this token has no scope 'read'")):
            page.get_by_label("Token").fill(word)
            page.get_by_role("button", name="Use this token").click()
            page.locator("#entry .problem", has_text=line).wait_for()
        page.get_by_label("Token").fill("own")
        page.keyboard.press("Enter")
        asked(page, ["Ana"])
        assert page.locator("#people input").count() == 1
        assert "the module trained on everyone" in page.locator("#keys").inner_text()
        page.get_by_label("Somebody else's key").fill("Ben")
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Ask them").click()
        assert told(page, "#ask").startswith("this token is bound to other users")
        assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 1, ""]
        page.reload()
        page.get_by_role("checkbox").first.wait_for()
        page.get_by_role("button", name="Forget the token").click()
        page.get_by_label("Token").fill("reader")
        page.keyboard.press("Enter")
        page.get_by_text("This token may not list people").wait_for()
        page.get_by_label("Somebody else's key").fill("Ben")
        page.get_by_label("Text", exact=True).fill(TEXT)
        page.get_by_role("button", name="Ask them").click()
        page.locator("#headline").wait_for()
        assert page.get_by_role("button", name="Delete Ben").count() == 0
        assert not page.locator("#teach").is_visible()


def test_free_answers_have_no_page(visit: Visit, address: str) -> None:
    page = visit("about:blank")
    method = {"method": "lora", "task": "t", "kind": "text", "labels": [], "base": "b", "personal": True}
    reply = {"methods": [{**method, "everyone": None}], "default": "lora", "scopes": ["read"], "users": None}
    page.route("**/v1/methods", lambda route: route.fulfill(json=reply))
    visit.address = address
    page.goto(address)
    page.get_by_text("What is served here writes free answers").wait_for()
    assert page.locator("#free a").get_attribute("href") == "openapi.json"
    assert not page.locator("#ask").is_visible()


def test_nothing_foreign_runs_or_is_asked(visit: Visit, address: str) -> None:
    page = visit(address)
    page.get_by_role("checkbox").first.wait_for()
    with pytest.raises(Exception, match="TrustedScript"):
        page.evaluate("document.body.append(Object.assign(document.createElement('script'), {textContent: 'ran = 1'}))")
    assert page.evaluate("window.ran") is None
    assert page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'reached', () => 'refused')") == "refused"
    policy = httpx.get(address).headers["content-security-policy"]
    assert "unsafe" not in policy
    assert httpx.get(f"{address}/", headers={"Accept": "text/html"}).headers["content-type"].startswith("text/html")
    visit.said.clear()
    visit.asked = [url for url in visit.asked if ":9/" not in url]


# --- for everybody ----------------------------------------------------------------------------------------------------


def test_the_keyboard_is_enough(visit: Visit, address: str) -> None:
    page = visit(address)
    page.get_by_role("checkbox").first.wait_for()

    def reach(condition: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate(f"(one => {condition})(document.activeElement)"):
                outline = "getComputedStyle(one.closest('.pills label') ?? one).outlineStyle"
                assert page.evaluate(f"(one => {outline})(document.activeElement)") == "solid"
                return
        pytest.fail(f"the keyboard does not reach {condition}")

    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the question"
    reach("one.value === 'Dora'")
    page.keyboard.press("Space")
    reach("one.id === 'text'")
    page.keyboard.type(TEXT)
    reach("one.textContent === 'Ask them'")
    page.keyboard.press("Enter")
    page.locator("#headline:focus").wait_for()
    reach("one.ariaLabel === 'Delete Ana'")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.textContent") == "Keep them"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.ariaLabel") == "Delete Ana"
    reach("one.ariaLabel === 'Teach Dora'")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "example"


@pytest.mark.parametrize(("size", "scheme"), [(WIDE, "light"), (PHONE, "dark")])
def test_axe_finds_nothing_at_any_width(visit: Visit, address: str, size: dict[str, int], scheme: str) -> None:
    page = visit(address, size, scheme)
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert colour == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 28)"}[scheme]
    page.get_by_label("Somebody else's key").fill("a-person-with-a-key-" + "x" * 100)
    page.keyboard.press("Enter")
    page.get_by_label("Method").select_option(MIXED)
    asked(page, [*PEOPLE, "a-person-with-a-key-" + "x" * 100])
    page.get_by_role("button", name="Ask them").click()
    page.get_by_role("button", name="Teach Ben").click()
    page.get_by_role("radio", name="harmful").check()
    page.get_by_role("button", name="Add to the list").click()
    page.locator("#examples li").wait_for()
    page.locator("#example").fill("A rude reply.")
    page.get_by_role("radio", name="harmful").check()
    page.get_by_label("These are all").check()
    page.get_by_role("button", name="Train", exact=True).click()
    page.locator("#changed").wait_for()
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    check_accessible(page, size["width"])
    if PICTURES:
        page.screenshot(path=Path(PICTURES) / f"{scheme}-{size['width']}.png", full_page=True)
    page.get_by_role("button", name="Delete Ana").click()
    check_accessible(page, size["width"])
