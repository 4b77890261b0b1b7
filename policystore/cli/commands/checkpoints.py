"""Define ``import`` and ``inspect``, which read checkpoints and experiments without Ray."""

from __future__ import annotations

import sys
from dataclasses import asdict
from os import cpu_count
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policystore._util.messages import counted
from policystore.cli.commands.moving import Best, Mode, Policies, SourceOption, read_policies
from policystore.cli.common.command import CHECKPOINTS, command
from policystore.cli.common.exit_codes import Code
from policystore.cli.common.session import Session
from policystore.cli.common.values import parse_options
from policystore.cli.terminal import words
from policystore.cli.terminal.tables import Column
from policystore.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from policystore import Digest, PolicyStore, Version
    from policystore.checkpoints import CheckpointInfo, ImportProgress

__all__: list[str] = []

_Path = Annotated[
    str, typer.Argument(help="Folder or URL of a Tune experiment, a trial, or a checkpoint.")
]


@command("import", CHECKPOINTS)
def import_(
    session: Session,
    experiment: _Path,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            help="The first part of all names. Default: the name of the experiment's folder.",
        ),
    ] = None,
    policy: Policies = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Number of processes; each imports whole trials. Default: the number of CPUs.",
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Run on a Ray cluster instead: auto, an address, or local for a new one here.",
        ),
    ] = None,
    source_option: SourceOption = None,
) -> int:
    """Import a Tune experiment: a version for each checkpoint of each policy.

    A policy gets the name NAME/TRIAL/POLICY, and its checkpoints become the versions of that name
    in their order. Each version records the numbers that Tune reported, and the checkpoint that it
    comes from. Checkpoints that the store has already are skipped. So after an interrupted import,
    the same command imports the rest; after a complete one, it adds nothing. Checkpoints of Ray 1.3
    to 2.60 are read without Ray, and nothing in them is executed.

    If the path is a single checkpoint, --name is needed, and each policy becomes a new version of
    NAME/POLICY, unless a version of this name is the same policy. 'push' makes a new version in any
    case.
    """
    if workers is not None and ray is not None:
        raise InvalidInputError("expected --workers or --ray, found both: give one of them")
    options = parse_options(source_option or (), "--source-option")
    session.take_options_from("--source-option", experiment)
    from policystore.checkpoints import import_experiment, list_checkpoints  # late: few need them

    with session.working(f"Looking through {experiment}"):
        is_experiment = bool(list_checkpoints(experiment, storage_options=options))
    if not is_experiment:
        return _import_checkpoint(session, experiment, name, policy, source_option)
    try:
        with session.working(f"Importing {experiment}", unit="checkpoints") as bar:

            def progress(so_far: ImportProgress) -> None:
                bar(so_far.done, so_far.total)
                _tell(session, so_far)

            report = import_experiment(
                experiment, session.store, name=name, policy_ids=policy or None,
                workers=workers or cpu_count() or 1, ray_address=ray, storage_options=options,
                progress=progress,
            )  # fmt: skip
    except KeyboardInterrupt:
        session.note("the same command goes on where this one ended")
        raise
    document = {
        "store": session.store.url,
        "added": report.added,
        "present": report.present,
        "errors": report.errors,
    }
    session.show(document, lambda: session.say(str(report).splitlines()[0]))
    return Code.FINE if report.ok else Code.FAULTS


def _tell(session: Session, progress: ImportProgress) -> None:
    """Name a checkpoint that was not imported; without a terminal, also each one that was."""
    place = f"{progress.trial}/{progress.checkpoint}".lstrip("/")
    if progress.error is not None:
        session.note(f"not imported: {place}: {session.translated(progress.error)}")
    elif not sys.stderr.isatty():
        session.note(
            f"[{progress.done}/{progress.total}] {place}: {progress.added} added, "
            f"{progress.present} there already"
        )


def _import_checkpoint(
    session: Session,
    path: str,
    name: str | None,
    policy: list[str] | None,
    source_option: list[str] | None,
) -> int:
    """Push the policies of one checkpoint, as versions of NAME/POLICY, unless they are there."""
    if name is None:
        folder = PurePosixPath(path).name
        raise InvalidInputError(
            f"expected --name, because {path} is a single checkpoint, and its folder does not say "
            f"what its policies are. Give --name, such as --name soccer/{folder.partition('_')[0]}"
        )
    with session.working(f"Reading {path}"):
        policies = read_policies(path, policy, None, "max", source_option)
    added = 0
    for policy_id, snap in policies.items():
        target = f"{name}/{policy_id}"
        with session.working(f"Pushing {target}") as bar:
            present = _same_policy(session.store, target, snap.digest)
            if present is None:
                source = {"path": path, "policy": policy_id}
                session.store.push(snap, target, source=source, progress=bar)
                added += 1
        if present is not None:
            session.note(f"{policy_id}: {present.ref} is this policy already")
    document: dict[str, Any] = {
        "store": session.store.url,
        "added": added,
        "present": len(policies) - added,
        "errors": {},
    }
    said = f"{counted(added, 'version')} added, {len(policies) - added} there already"
    session.show(document, lambda: session.say(said))
    return Code.FINE


def _same_policy(store: PolicyStore, name: str, digest: Digest) -> Version | None:
    """Return the newest version of a name that is a given policy; None if there is none."""
    try:
        versions = store.log(name)
    except NotFoundError:  # no such name, no version that stands, or no store yet
        return None
    return next((version for version in versions if version.digest == digest), None)


@command("inspect", CHECKPOINTS, without_store=True)
def inspect(
    session: Session,
    path: _Path,
    best: Best = None,
    mode: Mode = "max",
    source_option: SourceOption = None,
) -> int:
    """Tell what a checkpoint holds and what it lacks, without reading its weights.

    For a trial or experiment, the command looks at the latest checkpoint, or with --best at the
    best one.
    """
    options = parse_options(source_option or (), "--source-option")
    session.take_options_from("--source-option", path)
    from policystore.checkpoints import inspect_checkpoint  # late: few commands need it

    with session.working(f"Reading {path}"):
        info = inspect_checkpoint(path, metric=best, mode=mode, storage_options=options)
    session.show(asdict(info), lambda: _draw(session, info))
    for policy_id, file in info.missing.items():
        session.note(f"missing: the weights of {policy_id}: {session.translated(file)}")
    return Code.FAULTS if info.missing else Code.FINE


def _draw(session: Session, info: CheckpointInfo) -> None:
    session.fields(
        [
            ("path", info.path),
            ("kind", info.kind),
            ("API stack", info.stack),
            ("Ray", info.ray_version or "unknown"),
            ("algorithm", info.algorithm or "unknown"),
        ]
    )
    columns = [Column("policy", style="cyan", wraps=True), Column("weights", right=True)]
    rows = [[policy_id, words.size(nbytes)] for policy_id, nbytes in info.sizes.items()]
    rows += [[policy_id, "missing"] for policy_id in info.missing]
    session.say()
    session.table(columns, rows)
