"""Make the HTML of a report: one file without requests, and with a Content-Security-Policy.

Texts of a store may be hostile. The page has these texts as JSON in a block of data, in which no
character has a meaning for HTML, and the scripts show them as text. The Content-Security-Policy
allows only the scripts and styles with the right hashes, no request, and no text as code.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from functools import cache
from importlib.resources import files

from policystore.format.canonical_json import JsonObject

__all__ = ["SIGNATURE", "render_page"]

SIGNATURE = "<!doctype html>\n<!-- A report of policystore"
"""What each page begins with. By this text, a later report knows that it may replace the page."""

_SCRIPTS = (
    "model.js", "format.js", "filter.js", "tip.js", "charts.js", "metrics.js", "sizes.js",
    "lineage.js", "graph.js", "lists.js", "versions.js", "heatmap.js", "league_players.js",
    "leagues.js", "differences.js", "details.js", "main.js",
)  # fmt: skip
_ESCAPES = {
    "<": "\\u003c",
    ">": "\\u003e",
    "&": "\\u0026",
    "\u2028": "\\u2028",
    "\u2029": "\\u2029",
}


def render_page(document: JsonObject) -> bytes:
    """Return the page that shows a document, in UTF-8.

    Args:
        document: the data, as :func:`policystore.report.document.build_document` makes it.
    """
    chart_library, chart_style, script, style = _assets()
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hash_source(chart_library)} {_hash_source(script)}",
            f"style-src {_hash_source(chart_style)} {_hash_source(style)}",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )
    values = {
        "policy": html.escape(policy),
        "title": html.escape(str(document["title"])),
        "url": html.escape(str(document["url"])),
        "chart_style": chart_style,
        "style": style,
        "data": _escape_json(document),
        "chart_library": chart_library,
        "script": script,
    }
    template = _read("page", "page.html")
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], template)
    return page.encode("utf-8")


def _escape_json(document: JsonObject) -> str:
    """Return JSON in which no character has a meaning for HTML or ends a line of a script."""
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return re.sub("[<>&\u2028\u2029]", lambda match: _ESCAPES[match[0]], text)


@cache
def _assets() -> tuple[str, str, str, str]:
    """Return the scripts and styles: those of the chart library, and those of the report."""
    library = _read("vendor", "uplot", "uPlot.iife.min.js")
    library_style = _read("vendor", "uplot", "uPlot.min.css")
    parts = "\n".join(_read("page", name) for name in _SCRIPTS)
    script = f'(function () {{\n"use strict";\n{parts}\n}})();\n'
    return library, library_style, script, _read("page", "style.css")


def _read(*path: str) -> str:
    return files("policystore.report").joinpath(*path).read_text(encoding="utf-8")


def _hash_source(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
