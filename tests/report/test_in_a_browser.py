"""The page in headless Chromium: it works, nothing planted in it runs, and it prints."""

import pytest
from browser import chromium, why_not

PHONE = {"width": 390, "height": 844}
if reason := why_not():
    pytest.skip(reason, allow_module_level=True)


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture
def open_page(browser, trained):
    """Opens the report from disk; at the end nothing may have been said on the console, asked or loaded."""
    said, pages, loads = [], [], []

    def open_(**options):
        page = browser.new_page(**options)
        pages.append(page)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: loads.append(request.url))
        page.goto((trained.folder / "report.html").as_uri())
        return page

    yield open_
    for page in pages:
        page.close()
    assert said == []
    assert len(loads) == len(pages), "the page itself, and nothing else"


def rows(page):
    return page.locator("#list li").count()


def test_tables_and_figures_are_there(open_page):
    page = open_page()
    assert page.locator("table.sortable tbody tr").count() > 3
    sizes = [svg.bounding_box() for svg in page.locator("figure.figure svg").all()]
    assert len(sizes) >= 2
    assert all(size["width"] > 200 and size["height"] > 50 for size in sizes)


def test_filters_and_search_choose(open_page, trained):
    page = open_page()
    items = trained.data["items"]
    page.select_option("select[name=verdict]", "wrong")
    wrong = [item for item in items if item["verdict"] == "wrong"]
    assert page.text_content("#count") == f"{len(wrong)} of {len(items)}"
    assert set(page.locator("#list .verdict").all_text_contents()) == {"✗"}
    kind = next(item["error"] for item in wrong if item["error"])
    page.select_option("select[name=error]", kind)
    assert 0 < rows(page) < len(items)
    page.select_option("select[name=error]", "")
    page.select_option("select[name=verdict]", "")
    page.fill("input[name=search]", items[0]["id"])
    assert rows(page) == 1
    page.fill("input[name=search]", "nothing says this")
    assert page.text_content("#attempt") == "No attempt is like that."


def test_tokens_are_coloured_and_told(open_page):
    page = open_page()
    page.select_option("select[name=kind]", "revision")
    page.select_option("select[name=phase]", "training")
    page.select_option("select[name=verdict]", "correct")
    assert page.locator("#attempt .pane h4").count() >= 2
    assert page.locator("#attempt mark").count() > 0, "what differs from the earlier answer"
    seen = {}
    for colour in ("mask", "kl", "ratio", "logp", "none"):
        page.select_option("select[name=colour]", colour)
        seen[colour] = page.locator(".token.up, .token.down").count()
    assert seen["none"] == 0
    assert min(seen["ratio"], seen["logp"]) > 0
    page.select_option("select[name=colour]", "mask")
    page.select_option("select[name=method]", "grpo")
    everything = page.locator(".token.up").count()
    page.select_option("select[name=method]", "rrr")
    assert 0 <= page.locator(".token.up").count() <= everything
    page.locator(".token").first.click()
    assert "log-prob" in page.text_content(".readout")


def test_keys_walk_through_the_list(open_page):
    page = open_page()
    first = page.locator("#list li.chosen").get_attribute("data-place")
    page.focus("#list")
    page.keyboard.press("ArrowDown")
    assert int(page.locator("#list li.chosen").get_attribute("data-place")) == int(first) + 1


def test_a_column_sorts_both_ways(open_page):
    page = open_page()
    column = page.locator("#evaluations th button").nth(2)
    steps = page.locator("#evaluations tbody td:nth-child(3)")
    column.click()
    up = [int(text) for text in steps.all_text_contents()]
    column.click()
    down = [int(text) for text in steps.all_text_contents()]
    assert up == sorted(up) == down[::-1]
    assert up[0] < up[-1]


def test_what_was_planted_is_text(open_page):
    page = open_page()
    page.select_option("select[name=phase]", "evaluation")
    assert "<script>alert(1)</script>" in page.text_content("#attempt")
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 2
    assert page.evaluate("document.querySelectorAll('[onerror]').length") == 0


def test_dark_light_phone_and_paper(open_page):
    colours = {
        scheme: open_page(color_scheme=scheme).evaluate("getComputedStyle(document.body).backgroundColor")
        for scheme in ("light", "dark")
    }
    assert colours["light"] != colours["dark"]
    phone = open_page(viewport=PHONE)
    assert phone.evaluate("document.documentElement.scrollWidth") == PHONE["width"], "nothing sticks out"
    assert phone.pdf().startswith(b"%PDF")
