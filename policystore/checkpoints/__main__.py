"""Command line: import a Tune experiment into a store.

The command is ``python -m policystore.checkpoints EXPERIMENT STORE``; ``--help`` describes it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from os import cpu_count

from policystore.checkpoints.experiment import ImportProgress, import_experiment
from policystore.errors import PolicyStoreError
from policystore.store import PolicyStore

__all__ = ["main"]

_DESCRIPTION = """\
Import a Tune experiment into a store: a version for each checkpoint of each policy.

A policy gets the name NAME/TRIAL/POLICY, and its checkpoints become the versions of
that name in their order. Each version records the numbers that Tune reported, and the
checkpoint that it comes from. Checkpoints that the store has already are skipped. So after
an interrupted import, the same command imports the rest; after a complete one, it adds
nothing. Checkpoints of Ray 1.3 to 2.60 are read without Ray, and nothing in them is executed.
"""

_EPILOG = """\
examples:
  python -m policystore.checkpoints ~/ray_results/soccer ./policies
  python -m policystore.checkpoints ~/ray_results/soccer s3://team/policies --policies main
  python -m policystore.checkpoints s3://runs/soccer s3://team/policies --ray auto

Credentials for URLs come from the environment, a profile or the machine, as for s3fs.

exit status: 0 if every checkpoint is in the store; 1 after an error, or if a checkpoint
could not be read; 2 for a wrong command line; 130 if it was interrupted.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m policystore.checkpoints",
        usage="%(prog)s EXPERIMENT STORE [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "experiment",
        metavar="EXPERIMENT",
        help="folder or URL of a Tune experiment, or of one trial of it",
    )
    parser.add_argument(
        "store", metavar="STORE", help="folder or URL of the store; made if it is not there"
    )
    parser.add_argument(
        "--name", help="first part of all names (default: the name of the experiment's folder)"
    )
    parser.add_argument(
        "--policies", nargs="+", metavar="ID", help="import only these policies (default: all)"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--workers",
        type=_positive,
        metavar="N",
        help="number of processes; each imports whole trials (default: the number of CPUs)",
    )
    where.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="run on a Ray cluster instead: 'auto', its address, or 'local' for a new one here",
    )
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a number from 1 on, not {text!r}")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Args:
        arguments: the command line without the program's name; None takes that of this process.

    Raises:
        SystemExit: a wrong command line (status 2), or ``--help`` (status 0).
    """
    given = _parser().parse_args(arguments)
    try:
        report = import_experiment(
            given.experiment,
            PolicyStore(given.store),
            name=given.name,
            policy_ids=given.policies,
            workers=given.workers or cpu_count() or 1,
            ray_address=given.ray,
            progress=_print_progress,
        )
    except PolicyStoreError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the same command goes on where this one ended", file=sys.stderr)
        return 130
    print(str(report).splitlines()[0])
    return 0 if report.ok else 1


def _print_progress(progress: ImportProgress) -> None:
    place = f"{progress.trial}/{progress.checkpoint}".lstrip("/")
    print(
        f"[{progress.done}/{progress.total}] {place}: {progress.added} added, "
        f"{progress.present} there already",
        flush=True,
    )
    if progress.error is not None:
        print(f"    {progress.error}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
