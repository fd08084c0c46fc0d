"""Where file locks can be trusted: on what one machine's kernel alone holds.

On a network file system a lock is advisory across machines at best, and some servers drop
it while its holder lives: two processes could both believe that they hold it.
"""

import os
import re
from pathlib import Path

_NETWORKED = (
    *("nfs", "cifs", "smb", "9p", "ceph", "glusterfs", "lustre", "beegfs", "gpfs", "afs"),
    *("sshfs", "s3fs", "gcsfuse", "rclone", "blobfuse", "juicefs", "goofys", "mount-s3"),
)
# Of what runs in user space only this is known to pass locks on to a local disk: it is the
# root of containers that nobody runs as root.
_LOCAL_IN_USER_SPACE = "fuse.fuse-overlayfs"
_MOUNTS = Path("/proc/mounts")
_ESCAPED = re.compile(rb"\\([0-7]{3})")


def filesystem_of(path: Path) -> str:
    """The type of the file system that holds `path` ("" where the system does not tell)."""
    try:
        mounts = _MOUNTS.read_bytes().splitlines()
    except OSError:
        return ""
    inner = os.fsencode(path)
    best, kind = b"", b""
    for line in mounts:
        _, mount, fs, *_ = line.split(b" ")
        mount = _ESCAPED.sub(lambda code: bytes([int(code[1], 8)]), mount)
        inside = inner == mount or inner.startswith(mount.rstrip(b"/") + b"/")
        # Of two mounts at one place, the later one is on top.
        if inside and len(mount) >= len(best):
            best, kind = mount, fs
    return kind.decode()


def untrusted(folder: Path) -> str | None:
    """The type of the folder's file system if its locks can't be trusted, else None."""
    kind = filesystem_of(folder.resolve())
    if kind == _LOCAL_IN_USER_SPACE:
        return None
    return kind if kind.startswith(("fuse.", *_NETWORKED)) else None
