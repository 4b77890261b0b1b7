"""The leagues of a page in Chromium: chart, map, tables, keys, narrow screens, hostile texts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from selenium.webdriver.common.keys import Keys

from policystore import PolicyStore, Snapshot
from policystore.league import League
from tests.support.browser import Browser, open_browser
from tests.support.report_store import HOSTILE, MADE
from tests.support.sample_league import sample_league

pytestmark = [pytest.mark.long, pytest.mark.browser]

CELLS = ".heat canvas"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = PolicyStore("memory://browser-of-a-league")
    sample_league(store, players=24, pairs=300)
    return store.report(tmp_path_factory.mktemp("league") / "site", time=MADE).path


@pytest.fixture
def page(browser: Browser, site: Path) -> Iterator[Browser]:
    """The page of a league; in the end, no test may have left a complaint or a request."""
    browser.size(1280)
    browser.open(site)
    yield browser
    assert browser.complaints() == []
    asked = [url for url in browser.requests() if not url.startswith(("data:", "about:"))]
    assert {url.partition("#")[0] for url in asked} <= {site.as_uri()}


def column(page: Browser, at: int) -> list[str]:
    return page.texts(f"#league-0-players tbody tr > :nth-child({at})")


def rating(text: str) -> int:
    return int(text.partition(" ")[0].replace(",", "").replace("−", "-"))


def pixel(page: Browser, row: int, column: int) -> list[int]:
    """Return the colour in the corner of a cell of the map, whose places count from 0."""
    # A copy is read, because Chromium complains of a canvas that is drawn and read in turn.
    script = (
        "((row, column) => { const c = document.querySelector('.heat canvas');"
        " const cell = Number(c.dataset.cell), left = Number(c.dataset.left);"
        " const copy = document.createElement('canvas'); copy.width = c.width; copy.height = c.height;"
        " const x = copy.getContext('2d', { willReadFrequently: true }); x.drawImage(c, 0, 0);"
        " return [...x.getImageData(left + column * cell + 3, left + row * cell + 3, 1, 1).data].slice(0, 3) })"
        "(arguments[0], arguments[1])"
    )
    found: list[int] = page.run(script, row, column)
    return found


def focus_map(page: Browser) -> None:
    page.show(".heat")
    page.wait_for("document.querySelector('.heat canvas').dataset.cell")
    page.driver.execute_script("document.querySelector('.heat').focus({preventScroll: true})")


def test_the_section_says_who_played_how_much(page: Browser):
    assert page.texts("#league-0 h2") == ["League soccer"]
    assert page.texts("#league-0 .tiles dd:not(.note)")[:3] == ["24", "300", "6,000"]
    assert "120 more not recorded" in page.find("#league-0 .tiles").text
    assert "League soccer" in page.texts("#toc a")


def test_players_stand_by_rating_and_a_head_sorts_them(page: Browser):
    ratings = [rating(text) for text in column(page, 3)]
    assert ratings == sorted(ratings, reverse=True)
    assert all(re.fullmatch(r"-?[\d,]+ ± \d+", text) for text in column(page, 3))
    assert page.texts('#league-0-players th[aria-sort="ascending"]') == ["Rank"]

    page.show('#league-0-players button[data-key="episodes"]').click()
    episodes = [int(text.replace(",", "")) for text in column(page, 5)]
    assert episodes == sorted(episodes, reverse=True)
    assert page.focused("e.dataset.key") == "episodes"
    page.press(Keys.ENTER)
    assert page.texts('#league-0-players th[aria-sort="ascending"]') == ["Episodes"]


def test_more_players_come_on_demand(page: Browser):
    assert len(column(page, 1)) == 20
    page.show("#league-0 .more button").click()
    assert len(column(page, 1)) == 24


def test_the_chart_of_ratings_tells_rating_and_error_by_keys(page: Browser):
    page.show("#league-0 .plot")
    page.wait_for("document.querySelector('#league-0 .plot canvas')")
    page.driver.execute_script("document.querySelector('#league-0 .plot').focus()")
    page.press(Keys.END)
    last = page.focused("e.getAttribute('aria-valuetext')")
    page.press(Keys.ENTER)

    assert re.fullmatch(r"(soccer/main@\d+|random): -?[\d,]+ ± \d+", last)
    assert page.texts("#league-0 .legend bdi")[:2] == ["soccer/main", "soccer/exploiter"]


def test_the_chart_has_error_bars(page: Browser):
    """Above and below a point, where no line is, there is the colour of the bar."""
    page.show("#league-0 .plot")
    page.wait_for("document.querySelector('#league-0 .plot canvas')")
    bars = page.run(
        "(() => { const c = document.querySelector('#league-0 .plot canvas'), x = c.getContext('2d');"
        " const d = x.getImageData(0, 0, c.width, c.height).data; let most = 0;"
        " for (let at = 0; at < c.width; at += 1) { let run = 0;"
        "  for (let y = 0; y < c.height; y += 1) { const p = 4 * (y * c.width + at);"
        "   const [r, g, b, a] = [d[p], d[p + 1], d[p + 2], d[p + 3]];"
        "   if (a > 60 && Math.max(r, g, b) - Math.min(r, g, b) > 60) run += 1; }"
        "  most = Math.max(most, run); } return most })()"
    )
    assert bars > 12  # a line and its points alone have at most 10 pixels above each other


def test_ratings_by_time(page: Browser):
    page.show("#league-0 figure .choice button:nth-child(2)").click()
    label = page.find("#league-0 .plot").get_attribute("aria-label")
    assert label is not None
    assert label.startswith("Ratings by time; highest ")


def test_arrow_keys_walk_over_the_map_and_say_each_cell(page: Browser):
    focus_map(page)
    page.press(Keys.ARROW_RIGHT)
    first = page.texts(".told")[0]
    page.press(Keys.ARROW_RIGHT)
    second = page.texts(".told")[0]
    page.press(Keys.ARROW_DOWN, Keys.ARROW_LEFT)
    mirrored = page.texts(".told")[0]
    page.press(Keys.END, Keys.PAGE_DOWN)
    last = page.texts(".told")[0]

    assert first.endswith(": the same player")
    won = re.fullmatch(
        r"(\S+) against (\S+): wins ([\d.]+) % \(.* % to .* %\), (\d+) episodes", second
    )
    lost = re.fullmatch(
        r"(\S+) against (\S+): wins ([\d.]+) % \(.* % to .* %\), (\d+) episodes", mirrored
    )
    assert won is not None
    assert lost is not None
    assert (won[1], won[2], won[4]) == (lost[2], lost[1], lost[4])
    assert float(won[3]) + float(lost[3]) == pytest.approx(100, abs=1)
    assert last != mirrored


def test_the_map_gives_the_focus_away_with_tab(page: Browser):
    focus_map(page)
    page.press(Keys.TAB)
    assert page.focused("e.className") != "heat scroll"


def test_enter_in_the_map_opens_the_player_of_the_row(page: Browser):
    focus_map(page)
    page.press(Keys.ARROW_DOWN)
    row = page.texts(".told bdi")[0]
    page.press(Keys.ENTER)

    assert page.texts("#details h2 bdi") == [row]
    assert page.run("document.getElementById('details').open")


def test_the_pointer_over_a_cell_says_what_the_line_below_says(page: Browser):
    canvas = page.show(CELLS)
    page.wait_for("document.querySelector('.heat canvas').dataset.cell")
    page.hover_until("!document.getElementById('tip').hidden", canvas, 40, -20)
    (words,) = page.texts("#tip strong")
    pair = page.texts("#tip .row bdi")
    page.click()
    (told,) = page.texts(".told")

    assert told == f"{pair[0]} against {pair[2]}: {words}"


def test_colours_say_who_wins(page: Browser):
    """Blue is more than red where the row wins, and red more than blue where it loses."""
    focus_map(page)
    page.press(Keys.ARROW_RIGHT)
    won: list[int] = []
    lost: list[int] = []
    for row in range(24):
        for column_ in (row + 1, row - 1):  # neighbours by rating have often met
            if not 0 <= column_ < 24:
                continue
            page.press(Keys.ARROW_RIGHT if column_ > row else Keys.ARROW_LEFT)
            found = re.search(r"wins ([\d.]+) %", page.texts(".told")[0])
            if found is not None:
                red, _, blue = pixel(page, row, column_)
                share = float(found[1])
                (won if share > 55 else lost if share < 45 else []).append(blue - red)
            page.press(Keys.ARROW_LEFT if column_ > row else Keys.ARROW_RIGHT)
        page.press(Keys.ARROW_DOWN, Keys.ARROW_RIGHT)
        if len(won) > 3 and len(lost) > 3:
            break
    assert min(won) > 10
    assert max(lost) < -10


def test_the_order_of_the_map_can_be_changed(page: Browser):
    focus_map(page)
    page.press(Keys.ARROW_DOWN)
    by_rating = page.texts(".told bdi")[0]
    page.show('#league-0 [aria-label="Order"] button:nth-child(2)').click()
    focus_map(page)
    page.press(Keys.ARROW_DOWN)
    oldest = page.texts(".told bdi")[0]
    page.show('#league-0 [aria-label="Order"] button:nth-child(3)').click()
    focus_map(page)
    page.press(Keys.ARROW_DOWN)

    assert by_rating == column(page, 2)[0]
    assert oldest == "soccer/main@1"
    assert page.texts(".told bdi")[0] == "random"


def test_the_dialog_of_a_version_says_how_it_plays(page: Browser):
    page.show("#league-0-players tbody th button").click()
    text = page.find("#details").text

    assert "Leagues" in text
    assert re.search(r"Rating\n-?[\d,]+ ± \d+, number 1 of 24", text)
    assert "Best against" in text
    assert len(page.texts("#details .pairs")) >= 2


def test_the_map_has_its_numbers_as_a_table(page: Browser):
    page.show("#league-0 figure details > summary").click()
    page.wait_for("document.querySelector('#league-0 figure details table')")

    rows = page.texts("#league-0 figure details tbody tr")
    assert len(rows) == 50
    assert all(re.search(r"\d %\d+(\.\d)? % to \d", row) for row in rows)


def test_coverage_and_environments(page: Browser):
    text = page.show("#league-0 .split").text
    page.show("#league-0 .split details > summary").click()
    page.wait_for("document.querySelector('#league-0 .split details table')")

    assert "never met" in text
    assert "SoccerRain-v1" in text
    shares = [
        float(cell.removesuffix(" %"))
        for cell in page.texts('#league-0 .split td[data-label="Share"]')
    ]
    assert sum(shares) == pytest.approx(100, abs=2)
    assert len(page.texts("#league-0 .split details tbody tr")) > 5


@pytest.mark.parametrize("width", [320, 390, 768])
def test_a_narrow_screen_never_scrolls_sideways(browser: Browser, site: Path, width: int):
    browser.size(width, 844, dark=True)
    browser.open(site)
    for part in (".plot", "table", ".heat", ".split"):
        browser.show(f"#league-0 {part}")
    browser.wait_for("document.querySelector('.heat canvas').dataset.cell")

    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.complaints() == []


def test_the_map_follows_the_theme(browser: Browser, site: Path):
    found = []
    for dark in (False, True):
        browser.size(1280, dark=dark)
        browser.open(site)
        browser.show(".heat")
        browser.wait_for("document.querySelector('.heat canvas').dataset.cell")
        found.append(pixel(browser, 0, 0))
    assert sum(found[0]) > sum(found[1]) + 200


def test_hostile_texts_do_nothing_and_are_shown_as_they_are(browser: Browser, tmp_path: Path):
    store = PolicyStore("memory://browser-of-a-hostile-league")
    versions = [
        store.push(Snapshot(weights={"w": np.full(3, at, np.float32)}), "evil/name")
        for at in range(3)
    ]
    league = League(store, "evil")
    text = HOSTILE[:500]
    league.unknown(text, 3)
    rows = [
        {
            "players": {"__proto__": versions[at % 3], "constructor": f"heuristic:h{at}"},
            "refs": {"__proto__": f"{text}@{at}", "constructor": f"{text}{at}"},
            "episodes": 4,
            "wins": {"__proto__": 3},
            "draws": 1,
            "env": text,
        }
        for at in range(6)
    ]
    league.record(rows)
    page = store.report(tmp_path / "site", time=MADE).path
    browser.size(390, 844)
    browser.open(page)
    focus_map(browser)
    browser.press(Keys.ARROW_DOWN, Keys.ARROW_RIGHT)
    for summary in browser.driver.find_elements("css selector", "#league-0 details > summary"):
        browser.driver.execute_script("arguments[0].click()", summary)
    browser.show("#league-0-players .link").click()

    assert browser.run("window.hacked") is None
    assert browser.run("({}).polluted") is None
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert "<script>window.hacked = 1</script>" in browser.find("#league-0").text
    assert browser.run("document.documentElement.scrollWidth") <= 390
    assert browser.complaints() == []
    asked = [url for url in browser.requests() if not url.startswith(("data:", "about:"))]
    assert {url.partition("#")[0] for url in asked} == {page.as_uri()}


def test_a_thousand_players_do_not_make_a_slow_page(browser: Browser, tmp_path: Path):
    """The number of elements does not grow with the players, and the map says whom it shows."""
    store = PolicyStore("memory://browser-of-a-large-league")
    sample_league(store, players=400, pairs=6000)
    page = store.report(tmp_path / "site", leagues="soccer", diffs=0, time=MADE).path
    browser.size(1280)
    browser.open(page)
    browser.show(".heat")
    browser.wait_for("document.querySelector('.heat canvas').dataset.cell")

    assert browser.run("document.querySelectorAll('*').length") < 4000
    assert "The map shows 200 of 400 players" in browser.find("#league-0").text
    assert browser.run("document.documentElement.scrollWidth") <= 1280
    assert browser.complaints() == []
