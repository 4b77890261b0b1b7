"""Define ``push``, ``pull`` and ``copy``: policies between files, checkpoints and stores."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from policystore._util import files
from policystore.cli.common.command import COPY, Author, Message, command
from policystore.cli.common.completion import complete_names, complete_refs
from policystore.cli.common.confirm import DryRun
from policystore.cli.common.exit_codes import Code
from policystore.cli.common.plain_weights import is_file, read_file
from policystore.cli.common.session import Session
from policystore.cli.common.settings import expanded
from policystore.cli.common.values import parse_options, parse_values
from policystore.cli.terminal.output import mapped_output
from policystore.cli.terminal.words import size
from policystore.errors import InvalidInputError, PolicyStoreError
from policystore.format.plain import to_plain
from policystore.format.records import Version
from policystore.format.refs import check_name, check_tag
from policystore.snapshot import Snapshot

__all__ = ["Best", "Mode", "Policies", "SourceOption", "read_policies"]

Best = Annotated[
    str | None,
    typer.Option(
        "--best",
        metavar="METRIC",
        help="For a trial or experiment: take the checkpoint that is best by this metric of Tune. "
        "Default: the latest one.",
    ),
]
Mode = Annotated[
    str, typer.Option("--mode", metavar="max|min", help="Which value of --best is the best.")
]
Policies = Annotated[
    list[str] | None,
    typer.Option("--policy", metavar="ID", help="Only this policy; may be repeated."),
]
SourceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--source-option",
        metavar="NAME=VALUE",
        help="Option for the filesystem of the URL that is read, such as endpoint_url=http://….",
    ),
]


@command("push", COPY)
def push(
    session: Session,
    path: Annotated[
        str,
        typer.Argument(
            help="A safetensors file, or a folder or URL of a checkpoint, trial or experiment of "
            "RLlib."
        ),
    ],
    name: Annotated[
        str | None,
        typer.Argument(
            help="The name that gets a new version; NAME/ID for each of several policies. Without "
            "a name, the policy is kept by its digest alone.",
            autocompletion=complete_names,
        ),
    ] = None,
    message: Message = "",
    metric: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A metric for the record; may be repeated."),
    ] = None,
    parent: Annotated[
        list[str] | None,
        typer.Option(
            metavar="REF",
            help="A policy that this one was trained from; may be repeated.",
            autocompletion=complete_refs,
        ),
    ] = None,
    tag: Annotated[
        str | None, typer.Option(metavar="TAG", help="Move this tag to the new version.")
    ] = None,
    author: Author = None,
    policy: Policies = None,
    best: Best = None,
    mode: Mode = "max",
    source_option: SourceOption = None,
) -> None:
    """Push a policy from a file or a checkpoint as a new version.

    Checkpoints are read without Ray, and nothing in them is executed. 'import' pushes all
    checkpoints of an experiment.
    """
    if name is not None:
        check_name(name)
    if tag is not None:
        check_tag(tag)
        if name is None:
            raise InvalidInputError(
                "--tag needs the argument NAME, because a tag belongs to a name: give the name, too"
            )
    metrics = parse_values(metric or (), "--metric")
    session.take_options_from("--source-option", path)
    with session.working(f"Reading {path}"):
        policies = read_policies(path, policy, best, mode, source_option)
        trial = {} if best is None else _trial_of(path, best, mode, source_option)
    if best is not None:
        metrics = {best: trial.pop("value"), **metrics}
    alone = len(policies) == 1
    versions: list[Version] = []
    for policy_id, snap in policies.items():
        target = name if name is None or alone else f"{name}/{policy_id}"
        source = {"path": path, **trial} | ({} if policy_id is None else {"policy": policy_id})
        source = {} if target is None else source  # only the record of a version has one
        with session.working(f"Pushing {target or snap.digest.short}") as bar:
            version = session.store.push(
                snap, target, message=message, metrics=metrics, source=source,
                parents=parent or (), author=author, progress=bar,
            )  # fmt: skip
        versions.append(version)
        if tag is not None:
            try:
                session.store.tag(version, tag, author=author)
            except PolicyStoreError as error:
                raise error.within(f"pushed {version.ref}, and did not move the tag") from None
    document = {
        "store": session.store.url,
        "tag": tag,
        "versions": [each.to_dict() for each in versions],
    }

    def draw() -> None:
        for each in versions:
            tagged = "" if tag is None else f", {tag}"
            session.say(f"pushed {each.ref}  {each.digest.short}  {size(each.nbytes)}{tagged}")

    session.show(document, draw)


def _trial_of(
    path: str, metric: str, mode: str, source_option: Sequence[str] | None
) -> dict[str, Any]:
    """Return where the best checkpoint of an experiment is from, and its ``value`` of the metric.

    The other keys are those of the ``source`` of an import: ``trial``, ``checkpoint``,
    ``iteration`` and ``params``.
    """
    from policystore.checkpoints.files.folder import open_folder
    from policystore.checkpoints.trial_params import TrialParams
    from policystore.checkpoints.tune import choose_trial_checkpoint, iteration_of

    folder = open_folder(path, parse_options(source_option or (), "--source-option"))
    chosen = choose_trial_checkpoint(folder, metric, mode)
    return {
        "value": chosen.metric(metric),
        "trial": chosen.trial or folder.name,
        "checkpoint": chosen.name,
        "iteration": iteration_of(chosen.folder),
        **TrialParams(folder).source(chosen),
    }


def read_policies(
    path: str,
    policy_ids: Sequence[str] | None,
    best: str | None,
    mode: str,
    source_option: Sequence[str] | None,
) -> Mapping[str | None, Snapshot]:
    """Return the policies of a file or a checkpoint, by policy id; the id of a file is None."""
    local = expanded(path)
    if "://" not in path and local.suffix == ".safetensors" and is_file(local):
        if policy_ids or best:
            raise InvalidInputError(
                f"{path} is a safetensors file, which holds one policy: leave out --policy and "
                "--best"
            )
        return {None: read_file(local)}
    from policystore.checkpoints import read_checkpoint  # late: few commands read checkpoints

    options = parse_options(source_option or (), "--source-option")
    policies = read_checkpoint(
        path, policy_ids or None, metric=best, mode=mode, storage_options=options
    )
    return dict(policies.items())


@command("pull", COPY)
def pull(
    session: Session,
    ref: Annotated[
        str,
        typer.Argument(help="The policy, such as soccer/main@7.", autocompletion=complete_refs),
    ],
    file: Annotated[
        str,
        typer.Argument(help="The safetensors file to write; - means the standard output."),
    ],
    force: Annotated[
        bool, typer.Option("--force", "-f", metavar="", help="Replace the file if it exists.")
    ] = False,
) -> None:
    """Pull a policy into a safetensors file, after checking every byte.

    Any safetensors reader opens the file. The file appears whole or not at all.
    """
    if file == "-":
        _pull_to_output(session, ref)
        return
    path = Path(file)
    with files.mapped_errors(f"looking at {path}"):
        if path.is_dir():
            raise InvalidInputError(f"{path} is a folder: give the path of a file in the folder")
        if path.exists() and not force:
            raise InvalidInputError(
                f"{path} exists: give --force to replace the file, or give another file"
            )
    with session.working(f"Pulling {ref}") as bar:
        snap = session.store.pull(ref, progress=bar)
        snap.save(path)
    document = {
        "store": session.store.url,
        "ref": snap.ref or str(snap.digest),
        "digest": str(snap.digest),
        "nbytes": snap.nbytes,
        "file": str(path),
    }
    where = snap.ref or snap.digest.short
    session.show(document, lambda: session.say(f"pulled {where} to {path}"))


def _pull_to_output(session: Session, ref: str) -> None:
    """Write a policy as the bytes of a safetensors file to the standard output.

    Nothing is written before every byte of the policy was checked.
    """
    instead = "Give a file, or ./- for a file of this name"
    if session.json:
        raise InvalidInputError(
            f"- means the standard output, where --json writes its document. {instead}"
        )
    if sys.stdout.isatty():
        raise InvalidInputError(
            "- means the standard output, which is a terminal, and a policy is no text. Redirect "
            f"the output, as in policystore pull {ref} - > policy.safetensors. {instead}"
        )
    with session.working(f"Pulling {ref}") as bar:
        snap = session.store.pull(ref, progress=bar)
    with mapped_output():
        for chunk in snap._encode(inline=True).policy.chunks:
            sys.stdout.buffer.write(chunk)
    session.note(f"pulled {snap.ref or snap.digest.short} to the standard output")


@command("copy", COPY)
def copy(
    session: Session,
    target: Annotated[str, typer.Argument(help="Folder or URL of the store to copy to.")],
    what: Annotated[
        list[str] | None,
        typer.Argument(
            help="A prefix such as soccer/, a name, a ref or a digest; several are allowed. "
            "Default: everything.",
            autocompletion=complete_refs,
        ),
    ] = None,
    dry_run: DryRun = False,
    target_option: Annotated[
        list[str] | None,
        typer.Option(
            "--target-option",
            metavar="NAME=VALUE",
            help="Option for the filesystem of the target, such as endpoint_url=http://….",
        ),
    ] = None,
) -> int:
    """Copy what another store lacks to that store: versions, tags, deletions and annotations.

    A copy that was interrupted goes on when the same command is given again.
    """
    other = session.other_store(target, target_option, "--target-option")
    try:
        store = session.store
    except InvalidInputError as error:
        raise _meant_for_target(session, target, error) from None
    try:
        with session.working(f"Copying to {target}") as bar:
            report = store.copy_to(other, what or "", dry_run=dry_run, progress=bar)
    except KeyboardInterrupt:
        session.note("the same command goes on where this one ended")
        raise
    session.show(to_plain(report), lambda: session.say_report(report))
    return Code.FINE if report.complete else Code.FAULTS


def _meant_for_target(session: Session, target: str, error: InvalidInputError) -> InvalidInputError:
    """Return the error, with advice if ``--option`` was given and only the target can take it."""
    local = "://" not in session.place.url or session.place.url.startswith(("file:", "memory:"))
    if not (local and session.options and "://" in target):
        return error
    return InvalidInputError(
        f"{error}. Options for the target {target} are given by --target-option"
    )
