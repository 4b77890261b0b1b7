"""Tell where the credentials of a storage come from, without showing or using them."""

from __future__ import annotations

import os
from pathlib import Path

from policystore.backends.base import Backend
from policystore.backends.filesystems import CREDENTIAL_FILES, VARIABLES
from policystore.backends.gcs_azure import CREATING
from policystore.backends.options import StorageOptions
from policystore.backends.s3 import S3Backend

__all__ = ["credential_sources"]

_SECRET_WORDS = ("KEY", "SECRET", "TOKEN", "CREDENTIAL", "CONNECTION", "PASSW", "ACCOUNT")
# What the variables of a package begin with.
_STARTS = {"gcsfs": ("GOOGLE_", "GCSFS_", "GCE_", "CLOUDSDK_"), "adlfs": ("AZURE_",)}


def credential_sources(backend: Backend, options: StorageOptions) -> list[str]:
    """Return texts that say where credentials for a remote storage may come from.

    For S3, botocore searches for credentials, and may ask the metadata service of the machine. For
    other storages, the texts name the variables and files that exist.

    Args:
        backend: the storage.
        options: the options with which the storage was opened.

    Returns:
        Sources, the one that is used first; an empty list if nothing was found. No text holds a
        secret.
    """
    found = [f"storage option {name}" for name in options.secret_names()]
    if options.copy().get("anon"):
        return ["no credentials, by the storage option anon"]
    if isinstance(backend, S3Backend):
        method = None if found else _s3_method(options)
        return found + ([method] if method else [])
    starts = _STARTS.get(CREATING.get(backend.url.partition("://")[0], ""), ("",))
    found += [
        f"variable {name}"
        for name in sorted(os.environ)
        if VARIABLES.match(name)
        and name.startswith(starts)
        and any(word in name for word in _SECRET_WORDS)
    ]
    for variable, default in CREDENTIAL_FILES:
        if not variable.startswith(starts):
            continue
        path = Path(os.environ.get(variable) or default).expanduser()
        if path.is_file():
            found.append(f"file {path}")
    return found


def _s3_method(options: StorageOptions) -> str | None:
    """Return where botocore finds credentials; None if it finds none."""
    from botocore.exceptions import BotoCoreError  # late: it takes long to import
    from botocore.session import Session

    profile = options.copy().get("profile")
    try:
        credentials = Session(profile=profile).get_credentials()
    except BotoCoreError as error:
        return f"none that work: {error}"
    if credentials is None:
        return None
    chosen = profile or os.environ.get("AWS_PROFILE")
    return f"{credentials.method}{f' (profile {chosen})' if chosen else ''}"
