"""The page in Chromium: pointer, keys, filters, phones, themes, hostile texts, a thousand versions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from policystore import PolicyStore
from tests.support.browser import Browser, open_browser
from tests.support.report_store import MADE, hostile_store, league_store

pytestmark = [pytest.mark.long, pytest.mark.browser]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def league(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = league_store(PolicyStore("memory://browser-league"), 1000)
    return store.report(tmp_path_factory.mktemp("league") / "site", time=MADE).path


@pytest.fixture
def page(browser: Browser, league: Path) -> Iterator[Browser]:
    """The page of a thousand versions; in the end, no test may have left a complaint or a request."""
    browser.size(1280)
    browser.open(league)
    yield browser
    assert browser.complaints() == []
    asked = [url for url in browser.requests() if not url.startswith(("data:", "about:"))]
    assert {url.partition("#")[0] for url in asked} <= {league.as_uri()}


def shown(page: Browser) -> int:
    count = page.find("#count").text
    match = re.match(r"([\d,]+)", count)
    assert match is not None
    return int(match[1].replace(",", ""))


def test_a_thousand_versions_are_there_and_few_are_drawn(page: Browser):
    assert shown(page) == 999
    assert len(page.texts("#versions-table tbody tr")) == 60
    assert page.texts("#tiles dd")[:2] == ["8", "999"]

    page.show("#versions .more button").click()

    assert len(page.texts("#versions-table tbody tr")) == 360
    assert page.focused("e.dataset.ref") == page.texts("#versions-table tbody th button")[60]


def test_ages_are_those_of_the_moment_at_which_the_page_is_seen(page: Browser):
    """The report was made at another time than now, which its head says."""
    found = page.run(
        "[...document.querySelectorAll('time')].map((e) => [e.dateTime, e.textContent])"
    )
    assert len(found) > 8
    for written, shown_age in found:
        past = datetime.now(timezone.utc) - datetime.fromisoformat(written.replace("Z", "+00:00"))
        number, unit, _ = shown_age.split()
        length = {"s": 1, "min": 60, "h": 3600, "days": 86_400, "months": 2_630_016}.get(unit)
        length = length or 31_557_600
        assert int(number) == pytest.approx(past.total_seconds() // length, abs=1)
    assert MADE.strftime("%Y-%m-%d %H:%M UTC") in page.find("#subtitle").text


def test_a_thousand_versions_do_not_make_a_slow_page(page: Browser):
    """The number of elements, and of charts that are drawn, does not grow with the versions."""
    assert page.run("document.querySelectorAll('*').length") < 4000
    assert page.run("document.querySelectorAll('canvas').length") <= 7


def test_words_and_comparisons_filter_versions_and_charts(page: Browser):
    page.find("#query").send_keys("return>20 name:soccer/main author:ann")
    page.wait_for("document.getElementById('count').textContent.includes(' of ')")

    rows = page.run(
        "[...document.querySelectorAll('#versions-table tbody tr')].map("
        "(r) => [r.querySelector('th').textContent, r.querySelectorAll('td')[3].textContent])"
    )
    assert 0 < shown(page) < 420
    assert {ref.partition("@")[0] for ref, _ in rows} == {"soccer/main"}
    assert all(float(value) > 20 for _, value in rows)
    assert page.texts("#metric-legend span bdi") == ["soccer/main"]

    page.find("#clear").click()

    assert shown(page) == 999
    assert page.focused("e.id") == "query"


def test_tagged_versions_and_names_are_chosen_with_a_click(page: Browser):
    page.find("#only-tagged").click()
    tagged = shown(page)
    page.find("#chips .chip:nth-child(6)").click()

    assert tagged == 11
    assert shown(page) == 3
    assert page.find("#chips .chip:nth-child(6)").get_attribute("aria-pressed") == "true"
    assert page.texts(".lanes bdi") == ["soccer/main"]


def test_nothing_fits(page: Browser):
    page.find("#query").send_keys("no such version")
    page.wait_for("document.getElementById('count').textContent.startsWith('0 of')")

    assert page.find("#versions .empty").is_displayed()
    assert page.find("#metric-none").is_displayed()


def test_a_head_of_the_table_sorts_and_says_so(page: Browser):
    page.show('#versions thead button[data-key="m:return"]').click()
    highest = [float(text) for text in page.texts("#versions-table tbody td:nth-child(5)")]
    page.press(Keys.ENTER)  # the head keeps the focus
    lowest = [float(text) for text in page.texts("#versions-table tbody td:nth-child(5)")]

    assert highest == sorted(highest, reverse=True)
    assert lowest == sorted(lowest)
    assert page.texts('#versions th[aria-sort="ascending"]') == ["return"]
    assert page.focused("e.dataset.key") == "m:return"


def test_another_metric_becomes_a_column(page: Browser):
    page.driver.execute_script(
        "const s = document.getElementById('more-metrics');"
        "s.value = 'm:elo'; s.dispatchEvent(new Event('change'))"
    )

    assert page.texts("#versions-table thead th")[4] == "elo"
    assert page.texts("#versions-table tbody th button")[0] == "soccer/main@420"


def test_the_pointer_over_a_chart_tells_the_version_and_a_click_opens_it(page: Browser):
    plot = page.show("#metric-charts .plot .u-over")
    page.wait_for("document.querySelector('#metric-charts canvas')")
    page.hover_until("!document.getElementById('tip').hidden", plot, 60, -30)
    (ref,) = page.texts("#tip strong")
    row = page.texts("#tip .row")[0]
    page.click()
    page.wait_for("document.getElementById('details').open")

    assert re.fullmatch(r"[a-z/-]+@\d+", ref)
    assert re.fullmatch(r"return-?[\d.]+", row)
    assert page.texts("#details h2 bdi") == [ref]


def test_arrow_keys_walk_along_a_chart_and_enter_opens_the_version(page: Browser):
    page.show("#metric-charts .plot")
    page.wait_for("document.querySelector('#metric-charts canvas')")
    page.driver.execute_script("document.querySelector('#metric-charts .plot').focus()")
    page.press(Keys.HOME)
    first = page.focused("e.getAttribute('aria-valuetext')")
    page.press(Keys.ARROW_RIGHT, Keys.END)
    last = page.focused("e.getAttribute('aria-valuetext')")
    page.press(Keys.ENTER)

    assert re.fullmatch(r"[a-z/-]+@1: -?[\d.]+", first)
    assert last.startswith("soccer/main@420: ")
    assert page.texts("#details h2 bdi") == ["soccer/main@420"]
    assert page.run("document.getElementById('details').open")


def test_each_chart_has_its_numbers_as_a_table(page: Browser):
    summary = page.show("#metric-charts details > summary")
    label = page.find("#metric-charts .plot").get_attribute("aria-label")
    summary.click()
    page.wait_for("document.querySelector('#metric-charts details table')")

    assert label is not None
    assert label.startswith("return by version number; lowest")
    assert len(page.texts("#metric-charts details tbody tr")) == 50
    assert len(page.texts("#metrics figure")) == len(page.texts("#metrics figure details"))


def test_charts_by_time_and_of_all_metrics(page: Browser):
    page.show("#metrics .choice button:nth-child(2)").click()
    page.show("#metric-more button").click()

    charts = page.texts("#metric-charts h3")
    assert charts[0] == "return"
    assert {"games", "rating", "kl"} <= set(charts)  # those of annotations, and all of the pushes
    label = page.find("#metric-charts .plot").get_attribute("aria-label")
    assert label is not None
    assert label.startswith("return by time")


def test_dragging_over_a_chart_opens_no_version(page: Browser):
    plot = page.show("#metric-charts .plot .u-over")
    page.drag(plot, -60, 90)

    assert page.run("document.getElementById('details').open") is False


def test_the_lineage_shows_branches_and_what_hangs_together(page: Browser):
    node = page.show('.node[data-key="soccer/main@252"]')
    page.hover_until("document.querySelector('#lineage svg.tracing')", node)
    lit = set(page.run("[...document.querySelectorAll('.node.lit')].map((n) => n.dataset.key)"))

    assert {"soccer/main@1", "soccer/league-exploiter@1", "soccer/main@420"} <= lit
    assert "vision/grasp@1" not in lit
    assert len(page.texts(".edge.across")) == 5
    assert len(page.texts(".edge.back")) == 1


def test_arrow_keys_walk_through_the_lineage(page: Browser):
    page.show("#lineage-graph")
    page.driver.execute_script("document.querySelector('.node[tabindex=\"0\"]').focus()")
    newest = page.focused("e.dataset.key")
    page.driver.execute_script(
        "document.querySelector('.node[data-key=\"soccer/main@420\"]').focus()"
    )
    page.press(Keys.HOME)
    first = page.focused("e.getAttribute('aria-label')")
    page.press(Keys.ARROW_RIGHT)
    run = page.focused("e.getAttribute('aria-label')")
    page.press(Keys.ENTER)  # shows the versions of the run
    opened = page.focused("e.dataset.key")
    page.press(Keys.ARROW_DOWN)
    below = page.focused("e.dataset.key")
    page.press(Keys.ENTER)

    assert newest == "vision/grasp@140"
    assert first == "soccer/main@1"
    assert run.startswith("soccer/main, versions 2 to 104: 103 versions in a row")
    assert opened == "soccer/main@2"
    assert below.startswith("soccer/exploiter@")
    assert page.texts("#details h2 bdi") == [below]


def test_every_version_is_in_the_lineage_when_asked_for(page: Browser):
    page.show("#lineage .choice button:nth-child(2)").click()

    assert len(page.texts(".node")) == 999


def test_the_dialog_shows_a_version_and_gives_the_focus_back(page: Browser):
    button = page.show('#versions-table button[data-ref="soccer/main@420"]')
    button.click()
    details = page.find("#details")
    facts = details.text
    address = page.run("decodeURIComponent(location.hash)")
    page.press(Keys.ARROW_LEFT)
    before = page.texts("#details h2 bdi")
    page.press(Keys.ESCAPE)

    assert "candidate" in facts
    assert "blake3:" in facts
    assert 'store.pull("soccer/main@420")' in facts
    assert "soccer/main@419" in facts  # the parent
    assert "PPO_soccer_main" in facts
    assert address == "#soccer/main@420"
    assert before == ["soccer/main@419"]
    assert page.run("document.getElementById('details').open") is False
    assert page.focused("e.dataset.ref") == "soccer/main@420"


def test_the_address_opens_a_version(page: Browser, league: Path):
    page.open(league, "#vision%2Fgrasp%407")

    assert page.texts("#details h2 bdi") == ["vision/grasp@7"]


def test_everything_is_reached_with_the_tab_key(page: Browser):
    """The skip link first; each stop can be seen; no stop is a trap."""
    stops: list[str] = []
    for _ in range(60):
        page.press(Keys.TAB)
        stops.append(
            page.focused(
                "(e.id || e.className.baseVal || e.className || e.textContent || e.tagName)"
                " + '|' + getComputedStyle(e).outlineStyle"
            )
        )
    names = [stop.rpartition("|")[0] for stop in stops]

    assert names[0] == "skip"
    assert {"theme", "query", "only-tagged", "clear", "chip", "plot"} <= set(names)
    assert [stop for stop in stops if stop.endswith("|none") and "node" not in stop] == []


def test_the_skip_link_leads_to_the_content(page: Browser):
    page.press(Keys.TAB, Keys.ENTER, Keys.TAB)

    assert page.focused("e.closest('nav') !== null")


def test_the_layers_of_a_pair_have_bars(page: Browser):
    page.show("#differences .pair:nth-child(7) > summary").click()
    page.wait_for("document.querySelector('#differences .pair:nth-child(7) .layers')")
    rows = page.texts("#differences .pair:nth-child(7) .layer .mono")
    widths = page.run(
        "[...document.querySelectorAll('#differences .pair:nth-child(7) .track i')]"
        ".map((bar) => bar.getBoundingClientRect().width)"
    )

    assert page.texts("#differences .pair:nth-child(7) strong") == ["vision/grasp@139 → @140"]
    assert "encoder.net.2.weight" in rows
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > 100
    assert "equal, bit for bit" in page.texts("#differences .pair:nth-child(7) .wide")[0]


def test_annotations_are_listed_searched_and_drawn(page: Browser):
    said = page.texts("#notes .said bdi")
    page.find("#query").send_keys("do not use")
    page.wait_for("document.getElementById('count').textContent.startsWith('1 of')")
    page.show("#versions-table tbody th button").click()

    assert "beats the champion 61 : 39 in 400 games" in said
    assert page.texts("#details .notes .text") == [
        "do not use: trained with the old rules,\nthe ball was too light"
    ]
    assert "reviewed: no" in page.find("#details .notes").text
    assert page.texts("#versions-table .noted") == [""]
    assert page.texts("#notes tbody tr th") == ["soccer/main@211"]


def test_the_history_of_a_tag_and_what_sharing_saves(page: Browser):
    moves = [text for text in page.texts("#tags .moves") if "earlier" in text]
    page.show("#tags .moves li button.link").click()

    assert len(moves) == 1
    assert moves[0].startswith("3 earlier")
    assert page.texts("#tags .protected") == ["protected"]
    assert "removed" in " ".join(page.texts("#tags .moves"))
    assert "99.2 %" in page.texts("#sizes tbody tr")[0]


def test_light_and_dark_follow_the_system_and_the_switch(browser: Browser, league: Path):
    def background() -> str:
        return str(browser.run("getComputedStyle(document.body).backgroundColor"))

    browser.size(1280, dark=False)
    browser.open(league)
    light = background()
    browser.size(1280, dark=True)
    dark = background()
    browser.find("#theme").click()
    chosen_light = background()
    browser.find("#theme").click()
    browser.size(1280, dark=False)
    chosen_dark = background()
    browser.find("#theme").click()

    assert (chosen_light, chosen_dark, background()) == (light, dark, light)
    assert light != dark
    assert browser.complaints() == []


@pytest.mark.parametrize("width", [320, 390, 768])
def test_a_narrow_screen_never_scrolls_sideways(browser: Browser, league: Path, width: int):
    browser.size(width, 844)
    browser.open(league)
    for section in browser.run("[...document.querySelectorAll('main section')].map((s) => s.id)"):
        browser.driver.execute_script(
            "document.getElementById(arguments[0]).scrollIntoView()", section
        )
    page_width = browser.run("document.documentElement.scrollWidth")
    browser.show("#versions-table tbody th button").click()

    assert page_width <= width
    if width < 640:  # rows are cards there, so no table is wider than its place
        wide = "[...document.querySelectorAll('main table.cards')].filter((t) => t.scrollWidth > innerWidth)"
        assert browser.run(f"{wide}.length") == 0
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.find("#details").size["width"] <= width
    assert browser.complaints() == []


@pytest.mark.parametrize("width", [390, 1280])
def test_hostile_texts_do_nothing_and_are_shown_as_they_are(
    browser: Browser, tmp_path: Path, width: int
):
    store = hostile_store(PolicyStore(f"memory://browser-hostile-{width}"))
    page = store.report(tmp_path / "site", time=MADE, title="<script>window.hacked=4</script>").path
    browser.size(width, 844)
    browser.open(page)
    for button in ("#metric-charts details > summary", "#versions-table tbody th button"):
        browser.show(button).click()
    browser.wait_for("document.getElementById('details').open")

    assert browser.run("window.hacked") is None
    assert browser.run("({}).polluted") is None
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert "<script>window.hacked = 1</script>" in browser.find("#details").text
    assert browser.texts("#title") == ["<script>window.hacked=4</script>"]
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.complaints() == []
    asked = [url for url in browser.requests() if not url.startswith(("data:", "about:"))]
    assert set(asked) == {page.as_uri()}


def test_the_policy_of_the_page_stops_what_would_get_in(browser: Browser, league: Path):
    """If a text became HTML after all, the browser would run and load nothing of it."""
    browser.size(1280)
    browser.open(league)
    browser.driver.execute_script(
        "const s = document.createElement('script'); s.append('window.hacked = 1');"
        "document.body.append(s);"
    )
    image = "const i = document.createElement('img'); i.src = 'https://example.com/x.png'; document.body.append(i)"
    browser.driver.execute_script(image)
    refused = browser.run(
        "(() => { try { document.body.innerHTML = '<b>x</b>'; return false } catch (e) { return true } })()"
    )

    assert browser.run("window.hacked") is None
    assert refused is True
    browser.wait_for("document.images[0].complete")
    complaints = " ".join(browser.complaints())
    assert "TrustedScript" in complaints
    assert "TrustedHTML" in complaints
    assert "https://example.com/x.png" in complaints
    assert set(browser.refused()) == {"csp"}


def test_damage_is_named_on_the_page(browser: Browser, tmp_path: Path):
    store = league_store(PolicyStore(tmp_path / "store"), 60)
    record = tmp_path / "store/names/soccer/main/@versions/0000000007.json"
    record.chmod(0o644)
    record.write_bytes(b"{")
    page = store.report(tmp_path / "site", time=MADE).path
    browser.size(1280)
    browser.open(page)

    assert browser.find("#problems-h").is_displayed()
    assert browser.texts("#problems-h") == ["1 part of the store could not be read"]
    assert "soccer/main@7" in browser.texts("#problems li")[0]
    assert shown(browser) > 50
    assert browser.complaints() == []


def test_an_empty_store_has_a_page_that_says_what_to_do(browser: Browser, tmp_path: Path):
    store = league_store(PolicyStore("memory://browser-empty"), 60)
    store.delete_name("soccer/main", author="ann", force=True)
    page = store.report(tmp_path / "site", "soccer/main", time=MADE).path
    browser.size(1280)
    browser.open(page)

    assert "all deleted" in browser.texts("#names tbody tr")[0]
    assert browser.texts("#lineage .empty") == ["There are no versions."]
    assert browser.complaints() == []
