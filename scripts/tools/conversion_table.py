"""Write the tables of what converts between the API stacks into docs/convert.md.

    ./.venv/bin/python scripts/tools/conversion_table.py [--check]

The tables are made from the cells of the tests (``tests/support/conversions.py``), and from the
cells of what is refused (``tests/rllib/convert/test_refusals.py``), which the script tries to
convert to get the messages. With --check the script changes nothing, and ends with status 1 if the
page has other tables.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from policystore import InvalidInputError, Snapshot  # noqa: E402
from policystore.rllib import to_new_stack, to_old_stack  # noqa: E402
from tests.rllib.convert import test_refusals as refusals  # noqa: E402
from tests.support.conversions import NEW, OLD, SMALL, Cell  # noqa: E402

PAGE = ROOT / "docs" / "convert.md"
BEGIN, END = "<!-- table: scripts/tools/conversion_table.py -->", "<!-- end of table -->"
_MESSAGE = re.compile(
    r"cannot be converted: (.*) has no counterpart on the (?:old|new) API stack: (.*)\. Nothing",
    re.DOTALL,
)


def tables() -> str:
    """Return all tables as one text."""
    return "\n\n".join(
        [
            f"To the new stack ({len(OLD)} policies):\n\n{_converted(OLD, to_old=False)}",
            f"To the old stack ({len(NEW)} modules):\n\n{_converted(NEW, to_old=True)}",
            f"Refused on the way to the new stack:\n\n{_refused(refusals.OLD, to_new_stack)}",
            f"Refused on the way to the old stack:\n\n{_refused(refusals.NEW, to_old_stack)}",
        ]
    )


def _converted(cells: Mapping[str, Cell], *, to_old: bool) -> str:
    """Return the table of policies that convert."""
    rows = {}
    for cell in cells.values():
        settings = {**cell.model, **cell.training}
        if cell.model.get("fcnet_hiddens") == SMALL["fcnet_hiddens"]:
            settings.pop("fcnet_hiddens")
        words = ", ".join(f"`{key}={value}`" for key, value in settings.items()) or "default"
        back = "" if to_old else f" | {'no' if cell.algorithm == 'SAC' else 'yes'}"
        spaces = f"{_space(cell.obs)} | {_space(cell.act)}"
        rows[f"| {cell.algorithm} | {words} | {spaces}{back} |"] = None
    head = "| Algorithm | network | observations | actions |" + ("" if to_old else " and back |")
    line = "|---" * (4 if to_old else 5) + "|"
    return "\n".join([head, line, *rows])


def _space(space: Any) -> str:
    """Return a space in few words."""
    name = type(space).__name__
    if name in ("Dict", "Tuple"):
        parts = space.spaces.values() if name == "Dict" else space.spaces
        return f"{name} of {', '.join(_space(part) for part in parts)}"
    if name == "Box":
        return f"Box {'x'.join(map(str, space.shape))} {space.dtype}"
    if name == "Discrete" and space.start:
        return f"Discrete from {int(space.start)} on"
    return name


def _refused(
    cells: Mapping[str, tuple[Callable[[], Snapshot], str]], convert: Callable[[Snapshot], Snapshot]
) -> str:
    """Return the table of parts without a counterpart, by the messages of the refusals."""
    rows = dict.fromkeys(_refusal(make, convert) for make, _ in cells.values())
    return "\n".join(["| What has no counterpart | because |", "|---|---|", *rows])


def _refusal(make: Callable[[], Snapshot], convert: Callable[[Snapshot], Snapshot]) -> str:
    """Return the row of one part without a counterpart."""
    try:
        convert(make())
    except InvalidInputError as error:
        found = _MESSAGE.search(str(error))
        if found is None:
            sys.exit(f"a message of another form: {error}")
        part, why = (_cell(text) for text in found.groups())
        return f"| {part} | {why} |"
    return sys.exit("a cell that is to be refused was converted")


def _cell(text: str) -> str:
    """Return a text for a cell of a table, in which no character means something in Markdown."""
    return re.sub(r"([|\[\]])", r"\\\1", " ".join(text.split()))


def with_tables(page: str, text: str) -> str:
    """Return the text of the page with the tables between the two markers."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not after:
        sys.exit(f"{PAGE} lacks the markers {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing")
    arguments = parser.parse_args()
    now = PAGE.read_text()
    wanted = with_tables(now, tables())
    if arguments.check:
        sys.exit(now != wanted and f"{PAGE} is not up to date: run {Path(__file__).name}")
    PAGE.write_text(wanted)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    main()
