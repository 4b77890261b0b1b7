"""The files and folders that operating systems, file servers and sync tools leave everywhere.

They are no part of a store, and no fault of one. None of them has the form of a key of a store:
such a key has no capital letter, no part that begins with a dot, and ends in ``.json``,
``.safetensors`` or ``@hint``.
"""

from __future__ import annotations

import re

__all__ = ["is_foreign"]

_FILES = re.compile(
    r"""
    \.ds_store | \._.* | \.apdisk | \.localized | \.volumeicon\.icns | icon\r   # macOS
    | thumbs\.db(:.*)? | ehthumbs(_vista)?\.db | desktop\.ini                   # Windows
    | \.directory | \.hidden | \.nfs[0-9a-f]+ | \.fuse_hidden.* | \.smbdelete.* # Linux, NFS, SMB
    | a?quota\.(user|group)                                                     # mounted disks
    | \.(git|hg)?(keep|ignore) | \.nomedia | \.stignore                         # git, sync tools
    | \..*\.sw[a-p] | .*~ | \.\#.*                                              # editors
    """,
    re.IGNORECASE | re.VERBOSE,
)

_FOLDERS = re.compile(
    r"""
    lost\+found | \.trash.* | \.snapshots? | \.zfs | \.glusterfs                # Linux, NAS
    | \.spotlight-v100 | \.fseventsd | \.trashes | \.temporaryitems             # macOS
    | \.documentrevisions-v100 | \.appledouble | \.appledb | \.appledesktop
    | \$recycle\.bin | system\ volume\ information                              # Windows
    | @eadir | \#recycle | \#snapshot | @recycle | @recently-snapshot           # Synology, QNAP
    | \.@__thumb | \.@upload_cache | ~snapshot                                  # QNAP, NetApp
    | \.stfolder | \.stversions | \.dropbox\.cache                              # sync tools
    """,
    re.IGNORECASE | re.VERBOSE,
)


def is_foreign(name: str, is_folder: bool) -> bool:
    """Return whether an entry of a folder was left by a system or tool, by its name.

    Args:
        name: the name, without its folder.
        is_folder: whether the entry is a folder.
    """
    if name.isalnum():
        return False  # each foreign name has a character that is neither a letter nor a digit
    return (_FOLDERS if is_folder else _FILES).fullmatch(name) is not None
