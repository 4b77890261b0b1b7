"""Run all scenarios, and write their tables and charts."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any

from scripts.benchmarks.scaling import champion as champions
from scripts.benchmarks.scaling.assumptions import (
    DOLLARS,
    POLICIES,
    Assumptions,
    Client,
    Shape,
    dollars,
)
from scripts.benchmarks.scaling.champion import ARRIVALS, WARM, WAYS, Result, looks_a_day
from scripts.benchmarks.scaling.league import SAMPLERS, SNAPSHOTS, draw
from scripts.benchmarks.scaling.measured import (
    CALLS,
    body_bytes_a_matchup,
    cost_of,
    refresh_cost,
)
from scripts.benchmarks.scaling.publishing import publish
from scripts.benchmarks.scaling.upkeep import Beside, beside

__all__ = ["BEFORE", "Tables", "write_page"]

BEFORE = Client(throttled_attempts=6, longest_pause=1e9, hint_first=False, hint_each_try=True)
"""The defaults before this simulation was made."""

_RECORDS, _OBJECTS = ("soccer/main", 0), ("objects/", 500_000)
_NAMES = 200  # of the stores in scenarios 3 and 4


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table in Markdown; all but the first column are aligned to the right."""
    lines = [f"| {' | '.join(header)} |", f"|---|{'---:|' * (len(header) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _seconds(value: float) -> str:
    if value == float("inf"):
        return "never"
    return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"


def _dollars(value: float) -> str:
    if 0 < value < 0.001:
        return "below $0.001"
    return f"${value:,.2f}" if value >= 1 else f"${value:.2g}" if value else "$0"


def _count(value: float) -> str:
    """Round to three digits: more would only be noise of the random numbers."""
    digits = len(str(int(abs(value))))
    return f"{round(value, 3 - digits) if digits > 3 else round(value):,.0f}"


def _rate(nbytes: float) -> str:
    return f"{nbytes / 1e9:.1f} GB/s" if nbytes >= 1e8 else f"{nbytes / 1e6:.1f} MB/s"


def _attributes(cls: type) -> dict[str, str]:
    """Return what the docstring of a class says of each attribute."""
    told: dict[str, str] = {}
    names: list[str] = []
    lines = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")[2].splitlines()
    for line in lines:
        if line.startswith("     "):
            for name in names:
                told[name] += f" {line.strip()}"
            continue
        listed, _, text = line.strip().partition(": ")
        names = listed.split(", ")
        told |= dict.fromkeys(names, text)
    return {name: text.rstrip(".") for name, text in told.items()}


def _plain(value: object) -> str:
    """Write the value of an assumption."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(each)}" for key, each in value.items())
    if isinstance(value, tuple):
        return " to ".join(map(_plain, value))
    if isinstance(value, float) and value < 1000:
        return f"{value:g}"
    return str(value) if isinstance(value, bool) else f"{value:,.0f}"


def _pools(count: int) -> dict[str, tuple[str, int]]:
    """Return the reads of opponent pools that start: each reads all records of a name."""
    return {f"pool {number}": _RECORDS for number in range(count)}


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if 0 < share < 0.1 else f"{100 * share:.0f} %"


def _at(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Tables:
    """Compute each table at its first use.

    Args:
        calibration: what ``scale.py --calibrate`` has written.
        quick: whether to simulate smaller parts of the machines.
    """

    def __init__(self, calibration: dict[str, Any], *, quick: bool = False) -> None:
        self.calibration = calibration
        self.assumed = Assumptions().with_calibration(calibration)
        self.client = Client()
        self.share = 0.01 if quick else 0.1
        self._beside_share = 1 / 64 if quick else 1 / 16
        self._quick = quick

    def all(self) -> dict[str, str]:
        """Return all tables by their names, which are the markers on the page."""
        return {
            "assumptions": self.assumptions(),
            "measured": self.measured(),
            "champion": self.champion(),
            "before": self.before(),
            "split": self.split(),
            "watching": self.watching(),
            "publishing": self.publishing(),
            "draws": self.draws(),
            "records": self.records(),
            "upkeep": self.upkeep(),
            "beside": self.beside(),
            "hour": self.hour(),
        }

    # What is assumed and measured

    def assumptions(self) -> str:
        """List all numbers, with the sentences of the docstrings of their classes."""
        rows = []
        for cls, value in ((Assumptions, self.assumed), (Client, self.client)):
            told = _attributes(cls)
            rows += [
                (f"`{field.name}`", told[field.name], _plain(getattr(value, field.name)))
                for field in fields(cls)
            ]
        rows += [("price", f"dollars for 1,000 {kind}", f"{1000 * each:g}")
                 for kind, each in DOLLARS.items()]  # fmt: skip
        return table(("name", "meaning", "value"), rows)

    def measured(self) -> str:
        """Show the latencies of the calibration."""
        found = {
            (row["operation"], row["bytes"], row["at_once"]): row
            for row in self.calibration["latencies"]
        }
        at_once = sorted({key[2] for key in found})
        rows = []
        for operation, nbytes in dict.fromkeys((key[0], key[1]) for key in found):
            cells = [found[operation, nbytes, number] for number in at_once]
            each = [f"{cell['median_ms']:g} / {cell['p99_ms']:g}" for cell in cells]
            rows.append((f"{operation}, {nbytes:,} bytes", *each))
        return table(("request", *(f"{number} at once" for number in at_once)), rows)

    # Scenario 1

    @cached_property
    def results(self) -> dict[tuple[str, str, str], Result]:
        """All runs of scenario 1, by way, arrival and policy."""
        return {
            (way, arrival, shape.label): self.run(shape, way, arrival)
            for way in WAYS
            for arrival in ARRIVALS
            for shape in POLICIES
        }

    def run(self, shape: Shape, way: str, arrival: str, **options: Any) -> Result:
        """Make one run of scenario 1."""
        given: dict[str, Any] = {"client": self.client, "share": self.share} | options
        return champions.champion(self.assumed, shape, way, arrival, **given)

    @staticmethod
    def champion_row(label: Sequence[str], result: Result) -> tuple[str, ...]:
        """Write a row of scenario 1."""
        return (
            *label,
            _count(result.requests),
            _count(result.refused),
            f"{_count(result.peak)}/s",
            _rate(result.peak_bytes),
            _count(result.failed),
            _seconds(result.time(0.5)),
            _seconds(result.time(0.99)),
            _seconds(result.time(1.0)) if not result.failed else "never",
            _dollars(result.dollars),
        )

    _columns = (
        "requests",
        "503",
        "peak",
        "bytes, peak",
        "errors",
        "median",
        "p99",
        "last",
        "price",
    )

    def champion(self) -> str:
        """Scenario 1, with the present defaults."""
        return table(
            ("how", "begins", "policy", *self._columns),
            (
                self.champion_row((WAYS[way], ARRIVALS[arrival], label), result)
                for (way, arrival, label), result in self.results.items()
            ),
        )

    def before(self) -> str:
        """Scenario 1 with the defaults before, and with the present ones."""
        rows = []
        for way in ("each", "cache", "machine"):
            for arrival in ARRIVALS:
                for label, client in (("before", BEFORE), ("now", self.client)):
                    result = self.run(POLICIES[1], way, arrival, client=client)
                    rows.append(self.champion_row((WAYS[way], ARRIVALS[arrival], label), result))
        return table(("how", "begins", "defaults", *self._columns), rows)

    def split(self) -> str:
        """Scenario 1 where the bucket is split already, and with all machines simulated."""
        rows = []
        for way in ("cache", "machine"):
            for arrival in ARRIVALS:
                result = self.run(POLICIES[1], way, arrival, boundaries=WARM)
                label = (WAYS[way], ARRIVALS[arrival], "5 partitions")
                rows.append(self.champion_row(label, result))
        whole = self.run(POLICIES[1], "machine", "watch", share=0.05 if self._quick else 1.0)
        label = (WAYS["machine"], ARRIVALS["watch"], "1 partition, all machines simulated")
        return table(
            ("how", "begins", "bucket", *self._columns), [*rows, self.champion_row(label, whole)]
        )

    def watching(self) -> str:
        """What it costs to watch a tag that does not move."""
        rows = []
        runners, machines = self.assumed.runners, self.assumed.nodes
        watching = {
            f"{runners:,} runners": runners,
            f"{machines:,} machines": machines,
            "one process": 1,
        }
        for label, watches in watching.items():
            counts = looks_a_day(self.client, watches)
            total = sum(counts.values())
            rows.append(
                (label, f"{total / 86_400:,.1f}/s", _count(total), _dollars(dollars(counts)))
            )
        return table(("who watches", "requests", "requests a day", "price a day"), rows)

    # Scenario 2

    def publish_row(
        self, writers: int, one_name: bool, together: bool, label: str, client: Client
    ) -> tuple[str, ...]:
        """Make one run of scenario 2, and write its row."""
        minutes = 1 if together or self._quick else 3
        if together and self._quick:
            writers //= 4
        done = publish(
            self.assumed, POLICIES[0], writers, client=client, one_name=one_name,
            together=together, minutes=minutes,
        )  # fmt: skip
        return (
            f"{writers} trials, {'one name' if one_name else 'a name each'}, "
            f"{'all at once' if together else 'at any moments'}",
            label,
            f"{done.requests():.1f}",
            f"{sum(done.conflicts) / max(1, len(done.conflicts)):.1f} / {done.conflicts[-1]}",
            _seconds(_at(done.seconds, 0.5)),
            _seconds(_at(done.seconds, 0.99)),
            f"{_count(done.peak)}/s",
            _count(done.refused),
            _percent(done.exact),
            f"{done.behind}",
            f"{done.pull_requests:.1f}",
            _dollars(done.dollars_a_day(writers)),
        )

    def publishing(self) -> str:
        """Scenario 2."""
        now = self.client
        rows = [
            self.publish_row(200, False, False, "now", now),
            self.publish_row(200, False, True, "now", now),
            self.publish_row(200, True, False, "before", BEFORE),
            self.publish_row(200, True, False, "now", now),
            self.publish_row(200, True, True, "before", BEFORE),
            self.publish_row(200, True, True, "now", now),
            self.publish_row(
                200, True, True, "now, and a pause of up to 10 ms for each conflict",
                Client(conflict_pause=0.01),
            ),
            self.publish_row(400, True, False, "before", BEFORE),
            self.publish_row(400, True, False, "now", now),
            self.publish_row(1000, False, False, "now", now),
        ]  # fmt: skip
        header = ("who pushes, each once a minute", "defaults", "requests a push",
                  "conflicts, mean / most", "median", "p99", "peak", "503", "hint is right",
                  "hint behind", "requests of a pull by name", "price a day")  # fmt: skip
        return table(header, rows)

    # Scenario 3

    def draws(self) -> str:
        """Scenario 3: what env runners draw."""
        rows = []
        for shape in POLICIES[:2]:
            for sampler in SAMPLERS:
                done = draw(self.assumed, shape, sampler)
                rows.append((shape.label, sampler, _percent(done.first_hour), _percent(done.hits),
                             f"{done.gets:,.0f}/s", _rate(done.nbytes),
                             _dollars(done.dollars)))  # fmt: skip
        header = ("policy", "draws", "hits, first hour", "hits, second day", "requests",
                  "bytes", "price a day")  # fmt: skip
        return table(header, rows)

    @cached_property
    def _alone(self) -> Beside:
        return self._beside({"log": _RECORDS}, watches=0)

    def records(self) -> str:
        """Scenario 3: reading records of a league."""
        log = cost_of("log of each name").of(1, SNAPSHOTS)
        requests = sum(log.values())
        alone = requests / self._alone.job_rate
        together = max(alone, 200 * requests / self.assumed.reads)
        each = {n: refresh_cost(n) for n in (2, 4)}
        lists = (sum(each[4].values()) - sum(each[2].values())) // 2
        refresh = sum(each[2].values()) + (200 - 2) * lists
        size = body_bytes_a_matchup()
        rows = [
            ("an opponent pool starts: it reads the record of each snapshot", _count(requests),
             _seconds(alone), _dollars(dollars(log))),
            ("200 pools start at the same time", _count(200 * requests), _seconds(together),
             _dollars(200 * dollars(log))),
            ("`league.totals()` finds nothing new, 200 open lists", _count(refresh), "", ""),
            (f"the summary, for each million of matchups ({size:.0f} bytes each)", "",
             f"{size:.0f} MB", ""),
            ("matchups that a summary can hold (64 bodies of 16 MiB)", "",
             f"{64 * (16 << 20) / size / 1e6:.1f} million", ""),
            (f"one dense table of {SNAPSHOTS:,} by {SNAPSHOTS:,} floats in `payoffs()`", "",
             f"{SNAPSHOTS**2 * 8 / 1e9:.0f} GB", ""),
        ]  # fmt: skip
        return table(("what", "requests", "time, or size", "price"), rows)

    # Scenario 4

    def upkeep(self) -> str:
        """Scenario 4: requests of upkeep in a store of 100,000 versions of 200 names."""
        rows = []
        for call in CALLS:
            counts = cost_of(call).of(_NAMES, SNAPSHOTS)
            listed = {"verify": 2 * SNAPSHOTS, "collect_garbage": SNAPSHOTS}.get(call, 0)
            counts["LIST"] += -(-listed // 1000) + (512 if call == "collect_garbage" else 0)
            total = sum(counts.values())
            nbytes = SNAPSHOTS * POLICIES[0].nbytes if call == "verify" else 0
            rows.append((f"`{call}`" if "_" in call or call == "verify" else call,
                         ", ".join(f"{_count(n)} {kind}" for kind, n in sorted(counts.items())),
                         _count(total), f"{nbytes / 1e9:.0f} GB",
                         _seconds(total / self._alone.job_rate),
                         _dollars(dollars(counts))))  # fmt: skip
        return table(("call", "requests", "in all", "bytes", "time, 64 at once", "price"), rows)

    def _beside(self, jobs: dict[str, tuple[str, int]], **options: Any) -> Beside:
        given: dict[str, Any] = {"watches": self.assumed.runners, "share": self._beside_share}
        return beside(self.assumed, client=self.client, jobs=jobs, **(given | options))

    def beside(self) -> str:
        """Scenario 4: watches of all runners, with upkeep beside them."""
        jobs = {"collector": _RECORDS, "verify": _OBJECTS}
        cells: dict[str, dict[str, tuple[str, int]]] = {
            "nothing": {},
            "one collector": dict([*jobs.items()][:1]),
            "collector and `verify`": jobs,
            "both, and 10 pools that start": jobs | _pools(10),
            "both, and 20 pools that start": jobs | _pools(20),
        }
        rows = []
        for label, some in cells.items():
            done = self._beside(some)
            rows.append((label, f"{_count(done.job_rate)}/s",
                         f"{_count(done.rate)}/s", _percent(done.refused),
                         _seconds(_at(done.looks, 0.5)), _seconds(_at(done.looks, 0.99)),
                         _seconds(done.looks[-1]), _count(done.failed)))  # fmt: skip
        header = ("beside 10,000 watches", "upkeep", "in all, with 503", "503", "look, median",
                  "look, p99", "look, longest", "looks that fail")  # fmt: skip
        return table(header, rows)

    def hour(self) -> str:
        """Scenario 4: the same for an hour, in which S3 splits the partition."""
        jobs = {"collector": _RECORDS, "verify": _OBJECTS} | _pools(20)
        done = self._beside(jobs, seconds=290.0 if self._quick else 3590.0, share=1 / 64)
        when = ", ".join(f"{time / 60:.0f} min" for time in done.splits) or "none"
        header = ("splits", *(f"{10 * n} to {10 * n + 10} min" for n in range(len(done.windows))))
        return table(header, [(when, *map(_percent, done.windows))])


def write_page(page: Path, tables: Tables) -> None:
    """Write the tables between the markers of a page, and the charts beside the page.

    Raises:
        ValueError: the page lacks the markers of a table.
    """
    text = page.read_text()
    for name, content in tables.all().items():
        start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, found, rest = text.partition(start)
        _, ended, after = rest.partition(end)
        if not found or not ended:
            raise ValueError(f"{page} has no {start.strip()} before {end}")
        text = f"{before}{start}\n{content}\n\n{end}{after}"
    page.write_text(text)
    from scripts.benchmarks.scaling.charts import draw_charts  # late: only here is matplotlib used

    draw_charts(page.parent / "assets", tables.results)
