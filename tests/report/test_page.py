"""The bytes of a page: hostile texts, the policy of the page, its size, and what is vendored."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import policystore.report
from policystore import PolicyStore
from policystore.report.columns import clean, encode_number
from policystore.report.page import render_page
from tests.report.documents import data_of, small
from tests.support.report_store import HOSTILE, MADE, Clock, hostile_store, written_at

VENDOR = Path(policystore.report.__file__).parent / "vendor" / "uplot"


class Parts(HTMLParser):
    """Sorts a page into its elements, as a browser does."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {"script": [], "style": [], "title": [], "h1": []}
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_data(self, data: str) -> None:
        if self._inside in self.texts:
            self.texts[self._inside].append(data)

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = hostile_store(PolicyStore("memory://report-hostile"))
    place = tmp_path_factory.mktemp("hostile") / "site"
    return store.report(place, time=MADE, title="</title><script>alert(1)</script>").path


def test_no_text_of_a_store_becomes_an_element(hostile_page: Path):
    page = hostile_page.read_text(encoding="utf-8")
    parts = Parts(page)
    data = parts.texts["script"][0]

    assert [tag for tag, _ in parts.tags if tag in ("script", "img", "iframe")] == ["script"] * 3
    assert page.count("</script>") == 3
    assert not re.search("[<>&\u2028\u2029]", data)
    assert parts.texts["title"] == ["</title><script>alert(1)</script> · policystore report"]
    assert not any(name.startswith("on") for _, attributes in parts.tags for name in attributes)


def test_hostile_texts_arrive_as_they_are_but_for_what_cannot_be_printed(hostile_page: Path):
    data = data_of(hostile_page)

    message = data["strings"][data["names"][0]["message"][0]]
    assert message.startswith("<script>window.hacked = 1</script><img src=x onerror=")
    assert "{{data}}" in message
    assert message.isprintable()
    assert "\\u202e" in message
    assert "\\x1b" in message


def test_the_page_runs_only_its_own_scripts_and_styles(hostile_page: Path):
    parts = Parts(hostile_page.read_text(encoding="utf-8"))
    policy = next(a["content"] for t, a in parts.tags if a.get("http-equiv")) or ""
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))

    def hashes(texts: list[str]) -> str:
        digests = (hashlib.sha256(text.encode()).digest() for text in texts)
        return " ".join(f"'sha256-{base64.b64encode(each).decode()}'" for each in digests)

    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == hashes(parts.texts["script"][1:])
    assert rules["style-src"] == hashes(parts.texts["style"])
    assert rules["require-trusted-types-for"] == "'script'"
    assert "unsafe" not in policy
    assert "http" not in policy


def test_the_page_names_no_address_to_load_from(hostile_page: Path):
    parts = Parts(hostile_page.read_text(encoding="utf-8"))

    places = [a[key] for _, a in parts.tags for key in ("src", "href", "srcset") if key in a]
    assert [place for place in places if place != "data:,"] == ["#main"]
    assert not re.search(r"@import|url\(", "".join(parts.texts["style"]))


def test_the_scripts_never_make_html_of_a_text():
    for script in (Path(policystore.report.__file__).parent / "page").glob("*.js"):
        text = script.read_text(encoding="utf-8")
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|Function\(", text
        )


def test_the_chart_library_is_the_published_one():
    listed = dict(
        re.findall(r"\| `(\S+)` \| `([0-9a-f]{64})` \|", (VENDOR / "README.md").read_text())
    )

    assert set(listed) == {"uPlot.iife.min.js", "uPlot.min.css"}
    for name, digest in listed.items():
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest
    assert "MIT License" in (VENDOR / "LICENSE").read_text()


def test_the_same_store_and_time_give_the_same_bytes(tmp_path: Path):
    store = hostile_store(PolicyStore("memory://report-same"))

    one = store.report(tmp_path / "a", time=MADE).path.read_bytes()
    two = store.report(tmp_path / "b", time=MADE).path.read_bytes()
    later = store.report(tmp_path / "c").path.read_bytes()

    assert one == two
    assert one != later


@pytest.mark.long
def test_a_thousand_versions_with_long_texts_stay_under_the_limit(tmp_path: Path):
    store = PolicyStore("memory://report-long-texts")
    random = np.random.default_rng(0)
    with written_at(Clock()):
        for step in range(1000):
            metrics = {f"a metric with a long name {at}": random.random() for at in range(60)}
            source = {f"key {at}": f"{random.random()} " * 10 for at in range(20)}
            store.push(
                small(step % 5),
                "long",
                message=f"{step} " + "word " * 700,
                metrics=metrics,
                source=source,
            )

    summary = store.report(tmp_path / "site", time=MADE)

    assert summary.versions == 1000
    assert summary.shortened
    assert "left out, so that the page stays small" in str(summary)
    assert summary.nbytes == summary.path.stat().st_size <= 1_500_000
    data = data_of(summary.path)
    assert data["shortened"] is True
    assert len(data["names"][0]["metrics"]) >= 3


@pytest.mark.parametrize(
    ("number", "encoded"),
    [
        (1, 1),
        (2.0, 2),
        (0.1234567891, 0.1234568),
        (2**53, 9007199000000000),
        (10**400, "Infinity"),
        (-(10**400), "-Infinity"),
        (float("nan"), "NaN"),
        (float("-inf"), "-Infinity"),
        (1e-320, 1e-320),
        (None, None),
    ],
)
def test_numbers_keep_seven_digits_and_json_takes_them(number: Any, encoded: Any):
    result = encode_number(number)

    assert (
        result == pytest.approx(encoded, rel=1e-4)
        if isinstance(encoded, float)
        else result == encoded
    )
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_a_text_is_cut_and_cleaned():
    assert clean("a\nb\tc\x00", 100) == "a\nb\\tc\\x00"
    assert clean("abcdefgh", 6) == "abc..."
    assert clean("abc", 0) == ""


def test_a_document_with_a_number_that_json_lacks_is_refused():
    """A browser would show nothing of such a page."""
    with pytest.raises(ValueError, match="JSON"):
        render_page({"title": "t", "url": "u", "number": float("nan")})


def test_texts_that_look_like_places_of_the_template_stay(hostile_page: Path):
    assert "{{data}}" in hostile_page.read_text(encoding="utf-8")
    assert HOSTILE


def contrast(one: str, two: str) -> float:
    """Return the contrast of two colours such as ``#0a64be``, as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(two)))
    return (light + 0.05) / (dark + 0.05)


def test_texts_can_be_read_in_light_and_dark():
    """4.5 is the least contrast that WCAG 2 asks of text."""
    style = (Path(policystore.report.__file__).parent / "page" / "style.css").read_text()
    light, *dark = [
        dict(re.findall(r"--(\w+(?:-\w+)?): (#\w{6})", rule))
        for rule in re.findall(r"color-scheme: \w+;(.*?)\}", style, re.S)
    ]

    assert len(dark) == 2  # by the switch, and by the system
    assert dark[0] == dark[1]
    for theme in (light, dark[0]):
        for text in ("ink", "soft", "faint", "accent"):
            assert contrast(theme[text], theme["card"]) >= 4.5, text
            assert contrast(theme[text], theme["page"]) >= 4.5, text
        assert contrast(theme["accent"], theme["accent-soft"]) >= 4.5
        assert contrast(theme["warn"], theme["warn-soft"]) >= 4.5
