"""Say who writes a record, and when."""

from __future__ import annotations

import datetime
import getpass
import os
from functools import cache

__all__ = ["default_author", "now"]

# Users that many people share, on rented machines and in containers.
_SHARED_USERS = {
    "admin", "administrator", "app", "azureuser", "centos", "codespace", "debian", "docker",
    "ec2-user", "jovyan", "nobody", "opc", "ray", "root", "runner", "sagemaker-user", "ubuntu",
    "unknown", "user", "vscode",
}  # fmt: skip
_GIT_SECONDS = 2.0
_MAX_PART = 100  # characters of a name, and of a host


def now() -> datetime.datetime:
    """Return the time of this machine's clock, in UTC."""
    return datetime.datetime.now(datetime.timezone.utc)


def default_author() -> str:
    """Return ``$POLICYSTORE_AUTHOR``, or the name of the user.

    If many people share the user, such as ``root``, the result is the name that git knows, or else
    the user, with the name of the machine: ``Ann Lee@gpu-3``. git is asked at most once in each
    process. This function never raises.
    """
    author = os.environ.get("POLICYSTORE_AUTHOR")
    if author:
        return author
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):
        user = "unknown"  # the user of a container may have no entry in the password file
    if user.lower() not in _SHARED_USERS:
        return user
    host = _tidy(_host().partition(".")[0])
    return f"{_tidy(os.environ.get('GIT_AUTHOR_NAME', '')) or _git_name() or user}@{host}"


def _host() -> str:
    import socket

    try:
        return socket.gethostname() or "unknown"
    except OSError:
        return "unknown"


@cache
def _git_name() -> str:
    """Return the name in the configuration of git; an empty text without git or a name."""
    import subprocess  # late: most processes do not need it

    try:
        done = subprocess.run(
            ["git", "config", "--get", "user.name"],  # noqa: S607 (git is where the user has it)
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_GIT_SECONDS,
            check=False,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""  # no git, no memory for a process, or a home folder that does not answer
    return _tidy(done.stdout.decode("utf-8", "replace")) if done.returncode == 0 else ""


def _tidy(text: str) -> str:
    """Return a text on one line, without characters that a terminal does not print."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:_MAX_PART]
