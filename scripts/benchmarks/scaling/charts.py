"""Draw the charts of docs/scale.md, always with the same bytes."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

from scripts.benchmarks.scaling.assumptions import POLICIES
from scripts.benchmarks.scaling.champion import ARRIVALS, WAYS, Result

mpl.use("Agg")
from matplotlib import pyplot as plt

__all__ = ["draw_charts"]

_COLOURS = {"each": "#b2182b", "cache": "#ef8a62", "machine": "#2166ac", "ray": "#1b7837"}
_LABELS = {way: text.replace("`", "") for way, text in WAYS.items()}


def draw_charts(folder: Path, results: dict[tuple[str, str, str], Result]) -> None:
    """Write scale-time.svg and scale-share.svg into a folder."""
    folder.mkdir(exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "policystore", "svg.fonttype": "none", "font.size": 10}):
        _times(folder / "scale-time.svg", results)
        _shares(folder / "scale-share.svg", results)


def _save(path: Path) -> None:
    plt.savefig(path, metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    plt.close()
    text = path.read_text()
    path.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n")


def _times(path: Path, results: dict[tuple[str, str, str], Result]) -> None:
    """Draw when 99 % of the runners hold the champion, by policy and way."""
    figure, panes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True)
    for pane, arrival in zip(panes, ARRIVALS, strict=True):
        for place, way in enumerate(WAYS):
            heights = [results[way, arrival, shape.label].time(0.99) for shape in POLICIES]
            spots = [number + 0.2 * (place - 1.5) for number in range(len(POLICIES))]
            pane.bar(spots, heights, 0.18, color=_COLOURS[way], label=_LABELS[way])
        pane.set_xticks(range(len(POLICIES)), [shape.label for shape in POLICIES])
        pane.set_title(f"all begin {ARRIVALS[arrival]}" if arrival == "at once"
                       else "a watch finds it, every 5 s")  # fmt: skip
        pane.set_yscale("log")
        pane.set_ylim(0.5, 100)
        pane.set_yticks([1, 10, 100], ["1", "10", "100"])
        pane.grid(axis="y", alpha=0.3)
    panes[0].set_ylabel("seconds until 99 % hold it")
    handles, labels = panes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=9, ncols=2, loc="upper center", bbox_to_anchor=(0.5, 0))
    _save(path)


def _shares(path: Path, results: dict[tuple[str, str, str], Result]) -> None:
    """Draw the share of runners that hold a champion of 8 MB, over time."""
    plt.figure(figsize=(7, 3.6))
    for way in WAYS:
        times = results[way, "watch", POLICIES[1].label].times
        step = max(1, len(times) // 200)
        some = [*times[::step], times[-1]]
        shares = [min(1.0, number * step / len(times)) for number in range(len(some) - 1)]
        plt.plot(some, [*(100 * share for share in shares), 100.0], color=_COLOURS[way],
                 label=_LABELS[way])  # fmt: skip
    plt.xlabel("seconds after the tag was moved")
    plt.ylabel("% of the runners hold it")
    plt.grid(alpha=0.3)
    plt.legend(fontsize=8, loc="lower right")
    _save(path)
