"""Write the tables of what can be exported into docs/export.md.

    ./.venv/bin/python scripts/tools/export_table.py [--check]

For the first table, the script exports a policy of each algorithm, network and kind of space, with
random weights: the cells of tests/support/exported.py. For the second table, it exports every
policy of the checkpoints in the test data. Each export compares the file with RLlib's own actions.
This takes about ten minutes. With --check the script changes nothing, and ends with status 1 if the
page has other tables.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
import tempfile
import warnings
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from policystore.errors import PolicyStoreError  # noqa: E402
from policystore.rllib import export, read_checkpoint  # noqa: E402
from tests.support import checkpoint_corpus, exported  # noqa: E402

PAGE = ROOT / "docs" / "export.md"
BEGIN, END = "<!-- tables: scripts/tools/export_table.py -->", "<!-- end of tables -->"
KINDS = (("player", "onnx"), ("player", "pt2"), ("network", "onnx"), ("network", "pt2"))

# Cell, algorithm, network, observation, action.
ROWS = [
    ("new:module-discrete-shared", "PPO, IMPALA", "fully connected, shared", "Box", "Discrete"),
    ("new:module-discrete-separate", "PPO, IMPALA", "fully connected, separate", "Box", "Discrete"),
    ("new:module-appo", "APPO", "fully connected", "Box", "Discrete"),
    ("new:module-inference-only", "PPO", "weights for acting only", "Box", "Discrete"),
    ("new:module-box", "PPO", "fully connected", "Box", "Box"),
    ("new:module-box-free-log-std", "PPO", "`free_log_std`", "Box", "Box"),
    ("new:clipped", "PPO", "fully connected, clipped", "Box", "Box"),
    ("new:half-bounded", "PPO", "fully connected", "Box", "Box with an infinite bound"),
    ("new:float64-box", "PPO", "fully connected", "Box of float64", "Box of float64"),
    ("new:module-multidiscrete", "PPO", "fully connected", "Box", "MultiDiscrete"),
    ("new:nested-actions", "PPO", "fully connected", "Box", "Dict with a Tuple"),
    ("new:filter-box", "PPO", "fully connected, `MeanStdFilter`", "Box", "Box"),
    ("new:flatten", "PPO", "fully connected, `FlattenObservations`",
     "Dict with a Tuple, all kinds", "Discrete"),
    ("new:flatten-filter", "PPO", "the same, then `MeanStdFilter`",
     "Dict with a Tuple, all kinds", "Box"),
    ("new:flatten-discrete", "PPO", "fully connected, `FlattenObservations`", "Discrete", "Box"),
    ("new:conv", "PPO", "convolutions", "image of float32", "Discrete"),
    ("new:module-conv", "PPO", "convolutions", "image of uint8", "Discrete"),
    ("new:module-lstm-shared", "PPO", "LSTM, shared", "Box", "Discrete"),
    ("new:module-lstm-separate", "PPO", "LSTM, separate", "Box", "Box"),
    ("new:conv-lstm", "PPO", "convolutions and LSTM", "image of float32", "Box"),
    ("new:dqn", "DQN", "dueling, double", "Box", "Discrete"),
    ("new:dqn-distributional", "DQN", "distributional", "Box", "Discrete"),
    ("new:sac-box", "SAC, CQL", "fully connected", "Box", "Box"),
    ("new:sac-discrete", "SAC", "fully connected", "Box", "Discrete"),
    ("new:own-recurrent", "your module", "GRU", "Box", "Discrete"),
    ("new:own-dict", "your module", "takes a Dict as it is", "Dict", "Discrete"),
    ("new:own-actions", "your module", "returns actions", "Box", "Discrete"),
    ("new:module-batch-norm", "your module", "BatchNorm", "Box", "Discrete"),
    ("new:module-bf16", "your module", "bfloat16", "Box", "Discrete"),
    ("new:own-branching", "your module", "`if` on a value", "Box", "Discrete"),
    ("new:own-counting-rows", "your module", "`if` on the number of rows", "Box", "Discrete"),
    ("new:module-heuristic", "your module", "no torch", "Discrete", "Discrete"),
    ("old:model:vf-shared", "PPO", "fully connected, shared", "Box", "Discrete"),
    ("old:model:vf-separate", "PPO", "fully connected, separate", "Box", "Discrete"),
    ("old:act:forces", "PPO", "fully connected", "Box", "Box"),
    ("old:free-log-std", "PPO", "`free_log_std`", "Box", "Box"),
    ("old:clipped", "PPO", "fully connected, clipped", "Box", "Box"),
    ("old:act:multi_discrete", "PPO", "fully connected", "Box", "MultiDiscrete"),
    ("old:act:whole_box", "PPO", "fully connected", "Box", "Box of int64"),
    ("old:nested-actions", "PPO", "fully connected", "Box", "Dict with a Tuple"),
    ("old:concurrent-filter", "PPO", "fully connected, `ConcurrentMeanStdFilter`", "Box", "Box"),
    ("old:mixed-filter", "PPO", "fully connected, `MeanStdFilter`",
     "Dict with a Tuple, all kinds", "Box"),
    ("old:obs:multi_binary", "PPO", "fully connected", "MultiBinary", "Discrete"),
    ("old:start-at-two", "PPO", "fully connected", "Discrete that starts at 2", "Discrete"),
    ("old:obs:image", "PPO", "convolutions", "image of uint8", "Discrete"),
    ("old:image-in-dict", "PPO", "convolutions and others", "Dict with an image", "Discrete"),
    ("old:atari-ram", "PPO", "fully connected", "Box of 128 bytes", "Discrete"),
    ("old:pixels", "PPO", "convolutions", "image of 210 x 160", "Discrete"),
    ("old:model:lstm", "PPO", "LSTM", "Box", "Discrete"),
    ("old:lstm-box", "PPO", "LSTM, `MeanStdFilter`", "Dict with a Tuple, all kinds", "Box"),
    ("old:model:lstm-prev", "PPO", "LSTM with previous actions and rewards", "Box", "Box"),
    ("old:model:attention", "PPO", "attention", "Box", "Discrete"),
    ("old:appo:lstm", "APPO", "LSTM", "Box", "Discrete"),
    ("old:impala:lstm", "IMPALA", "LSTM", "Box", "Discrete"),
    ("old:marwil:forces", "MARWIL, BC", "fully connected", "Box", "Box"),
    ("old:dqn:dueling-double", "DQN", "dueling, double", "Box", "Discrete"),
    ("old:dqn:distributional", "DQN", "distributional", "Box", "Discrete"),
    ("old:dqn:noisy", "DQN", "noisy", "Box", "Discrete"),
    ("old:sac:no-twin", "SAC", "fully connected", "Box", "Box"),
    ("old:cql:lagrangian", "CQL", "fully connected", "Box", "Box"),
    ("old:no-preprocessor", "your model", "takes a Dict as it is", "Dict", "Discrete"),
    ("old:model:batch-norm", "your model", "BatchNorm", "Box", "Discrete"),
    ("old:model:bf16", "your model", "bfloat16", "Box", "Discrete"),
    ("old:model:view-of-three", "your model", "the last three observations", "Box", "Discrete"),
    ("old:model:custom-dist", "PPO", "your action distribution", "Box", "Discrete"),
    ("old:own-branching", "your model", "`if` on a value", "Box", "Discrete"),
    ("old:heuristic:stateless", "your policy", "no torch", "Box", "Discrete"),
]  # fmt: skip


def outcome(snap: Any, contents: str, suffix: str, arguments: dict[str, Any], folder: Path) -> str:
    """Return "" if an export succeeds, else why not."""
    file = folder / f"policy.{suffix}"
    given = arguments if contents == "player" else {}
    try:
        export(snap, file, contents=contents, trust=exported.TRUST, force=True, **given)  # type: ignore[arg-type]
    except PolicyStoreError as error:
        return reason(str(error))
    return ""


def reason(message: str) -> str:
    """Return the part of a message that says why, without line numbers."""
    text = message.splitlines()[0].removeprefix("this policy cannot be exported: ")
    text = text.partition(". Nothing was written")[0]
    text = re.sub(r"\b(?:[a-z_0-9]+\.){2,}([A-Za-z_]\w*)", r"\1", text)  # without the package
    text = re.sub(r", line \d+| \([\d, a-z]+\); nothing was written", "", text)
    text = re.sub(r"\((\w+): .*\)$", r"(\1)", text)  # the error without its text
    text = re.sub(r" in (Box|Dict|Tuple|Discrete)\(.*\)(?= has)", "", text)
    return text.replace("|", "\\|")


def matrix(folder: Path) -> list[str]:
    """Return the lines of the first table."""
    lines = [
        "| stack | algorithm | network | observation | action "
        "| player `.onnx` | player `.pt2` | network `.onnx` | network `.pt2` | why not |",
        "|---" * 10 + "|",
    ]
    for name, algorithm, network, observation, action in ROWS:
        cell = exported.cell(name)
        found = [
            outcome(cell.snap, contents, suffix, cell.arguments, folder)
            for contents, suffix in KINDS
        ]
        print(name, *(each or "yes" for each in found), sep="; ", flush=True)
        why = "; ".join(dict.fromkeys(each for each in found if each))
        shown = ["no" if each else "yes" for each in found]
        row = [name.partition(":")[0], algorithm, network, observation, action, *shown, why]
        lines.append("| " + " | ".join(row) + " |")
    return lines


def checkpoints(folder: Path) -> list[str]:
    """Return the lines of the second table."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    whys: dict[str, dict[str, None]] = defaultdict(dict)
    algorithms: dict[str, set[str]] = defaultdict(set)
    for one in checkpoint_corpus.given():
        for policy_id, snap in read_checkpoint(one.path).items():
            counts[one.version]["policies"] += 1
            algorithms[one.version].add(snap.spec.algorithm or "")
            for contents in ("player", "network"):
                why = outcome(snap, contents, "onnx", {}, folder)
                print(checkpoint_corpus.named(one), policy_id, contents, why or "yes", flush=True)
                if why:
                    whys[one.version][why] = None
                else:
                    counts[one.version][contents] += 1
    lines = [
        "| written by Ray | policies | exported as player | exported as network | algorithms "
        "| why not |",
        "|---" * 6 + "|",
    ]
    for version, count in counts.items():
        row = [
            version,
            *(str(count[key]) for key in ("policies", "player", "network")),
            ", ".join(sorted(algorithms[version])),
            "; ".join(whys[version]),
        ]
        lines.append("| " + " | ".join(row) + " |")
    return lines


def main() -> None:
    """Make the tables; write or compare them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        tables = "\n".join([*matrix(Path(folder)), "", *checkpoints(Path(folder))])
    page = PAGE.read_text()
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    made = f"{head}{BEGIN}\n\n{tables}\n\n{END}{tail}"
    if check:
        sys.exit(0 if made == page else f"{PAGE} has other tables: run {Path(__file__).name}")
    PAGE.write_text(made)


if __name__ == "__main__":
    main()
