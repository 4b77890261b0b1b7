"""All benchmarks that ``run.py`` runs: each module but this one is a section.

A section has a function ``measure(settings, report)``, which adds rows to the report. It runs in a
process of its own. ``SECTIONS`` has the sections in the order of the table, with a limit in seconds
for a full run, which a section takes only if something hangs.
"""

from __future__ import annotations

__all__ = ["SECTIONS"]

SECTIONS = {
    "pull": 240,
    "push": 240,
    "memory": 180,
    "rebuild": 300,
    "sizes": 240,
    "remote": 420,
    "large": 240,
    "loading": 480,
    "acting": 240,
    "scale": 420,
    "upkeep": 420,
    "reporting": 120,
    "startup": 180,
}
