"""The report of adapt: as text, as HTML, and as plain values."""

from __future__ import annotations

import json
import pickle

import pytest

from policystore.digest import Digest
from policystore.rllib import Adapted, AdaptedPart, AdaptReport, adapt
from tests.support.transfer import BC_NET, bc, ppo

EVIL = "<script>alert(1)</script>\x1b[2J"


@pytest.fixture(scope="module")
def result() -> Adapted:
    return adapt(bc(), ppo(), rename=BC_NET)


def test_text(result: Adapted) -> None:
    lines = str(result.report).splitlines()
    assert lines[1] == "9 renamed, 9 kept; 676 of 1,318 parameters from the snapshot"
    assert lines[2].split() == ["part", "status", "from", "shape"]
    assert lines[3].split() == [
        "encoder.actor_encoder.net.mlp.0.bias", "renamed", "_encoder.net.mlp.0.bias", "float32[16]"
    ]  # fmt: skip
    assert lines[-1].startswith("note: settings of the model differ")
    assert str(result) == f"{result.snapshot!r}\n{result.report}"
    assert repr(result.report) == f"<AdaptReport: {result.report.summary}>"
    assert result.snapshot.digest.short in repr(result)


def test_plain_values(result: Adapted) -> None:
    written = json.loads(json.dumps(result.report.to_dict()))
    assert written["counts"]["renamed"] == 9
    assert written["source"] == str(result.report.source)
    records = result.report.to_records()
    assert len(records) == len(result.report.rows) == 18
    assert records[0] == written["rows"][0] == {
        "name": "encoder.actor_encoder.net.mlp.0.bias",
        "status": "renamed",
        "kind": "tensor",
        "source": "_encoder.net.mlp.0.bias",
        "shape": "float32[16]",
        "why": "",
    }  # fmt: skip
    assert pickle.loads(pickle.dumps(result.report)) == result.report


def test_html_shows_the_rows(result: Adapted) -> None:
    html = result._repr_html_()
    assert "encoder.actor_encoder.net.mlp.0.bias" in html
    assert "9 renamed, 9 kept" in html
    assert "settings of the model differ" in html


def test_all_texts_are_escaped() -> None:
    rows = (AdaptedPart(EVIL, "renamed", "tensor", EVIL, EVIL, EVIL),)
    report = AdaptReport(Digest.parse("blake3:" + 64 * "0"), EVIL, EVIL, rows, 1, 1, (EVIL,))
    html = report._repr_html_()
    assert "<script>" not in html
    assert html.count("&lt;script&gt;") == 7
    assert "\x1b" not in html
    assert "\x1b" not in str(report)


def test_a_notebook_shows_the_first_rows() -> None:
    rows = tuple(AdaptedPart(f"layer{index:03d}", "taken") for index in range(100))
    report = AdaptReport(Digest.parse("blake3:" + 64 * "0"), None, "it", rows, 1, 1)
    html = report._repr_html_()
    assert "layer059" in html
    assert "layer060" not in html
    assert "and 40 more rows" in html
    assert "layer099" in str(report)
