"""Define ``export``, which writes a policy as a file that plays without RLlib."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from policystore._util import files
from policystore._util.messages import brief
from policystore.cli.common.command import COPY, command
from policystore.cli.common.completion import complete_refs
from policystore.cli.common.session import Session
from policystore.errors import InvalidInputError, MissingPackageError, NotFoundError
from policystore.snapshot import Snapshot

__all__: list[str] = []

_Contents = Literal["player", "network"]


@command("export", COPY)
def export(
    session: Session,
    ref: Annotated[
        str,
        typer.Argument(help="The policy, such as soccer/main@7.", autocompletion=complete_refs),
    ],
    file: Annotated[
        Path,
        typer.Argument(help="The file to write: .onnx, or .pt2 for a program of torch.export."),
    ],
    contents: Annotated[
        _Contents,
        typer.Option(
            help="player: from the environment's observation to its action. network: what the "
            "network alone computes.",
        ),
    ] = "player",
    trust: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PREFIX",
            help="A prefix of import paths, such as mypkg., whose classes the policy may use; may "
            "be repeated.",
        ),
    ] = None,
    agent: Annotated[
        str | None,
        typer.Option(metavar="ID", help="The agent to act as, if the policy has several."),
    ] = None,
    module: Annotated[
        str | None,
        typer.Option(metavar="ID", help="The module to act through, if the policy has several."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", "-f", metavar="", help="Replace the file if it exists.")
    ] = False,
) -> None:
    """Write a policy as one graph that plays without RLlib.

    The graph is compared with RLlib's own actions before the file appears. The command needs Ray
    RLlib and torch, and onnx, onnxscript and onnxruntime for an .onnx file. It starts no Ray
    cluster.
    """
    with files.mapped_errors(f"looking at {file}"):
        if file.exists() and not file.is_dir() and not force:
            raise InvalidInputError(
                f"{file} exists: give --force to replace the file, or give another file"
            )
    try:
        from policystore.rllib.exporting.api import export as write  # late: takes seconds
    except ImportError as error:
        cause = error.__cause__ if isinstance(error.__cause__, ImportError) else error
        raise MissingPackageError.of(
            "an export", "ray", "torch", extra="rllib,export", error=cause
        ) from error
    with session.working(f"Pulling {ref}") as bar:
        snap = session.store.pull(ref, progress=bar)
    with session.working(f"Exporting {ref}"):
        metadata = write(
            snap,
            file,
            contents=contents,
            trust=trust or (),
            agent=None if agent is None else _agent(snap, agent),
            module_id=module,
            force=force,
        )
    document = {
        "store": session.store.url,
        "ref": snap.ref or str(snap.digest),
        "digest": str(snap.digest),
        "file": str(file),
        "contents": contents,
        "inputs": [one.name for one in metadata.inputs],
        "outputs": [one.name for one in metadata.outputs],
        "state": [part.input for part in metadata.state],
    }
    where = snap.ref or snap.digest.short
    session.show(document, lambda: session.say(f"exported {where} to {file}"))


def _agent(snap: Snapshot, given: str) -> Any:
    """Return the agent whose id is written so; an id may be a number."""
    known = snap.spec.connectors.get("agents") or []
    for agent in known:
        if str(agent) == given:
            return agent
    raise NotFoundError(f"{snap!r} has no agent {given!r}; it has {brief(known)}")
