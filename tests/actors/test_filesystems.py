"""Which file systems' locks are trusted."""

import os
from pathlib import Path

import pytest

from actors import filesystems as module
from actors.filesystems import filesystem_of, untrusted

MOUNTS = """\
/dev/vda / ext4 rw,relatime 0 0
proc /proc proc rw 0 0
filer:/home /mnt/home nfs4 rw,vers=4.2 0 0
/dev/vdb /mnt/home/local xfs rw 0 0
filer:/x /mnt/two\\040words\\134 nfs rw 0 0
filer:/y /mnt/d\xc3\xa4ten cifs rw 0 0
filer:/z /mnt/\xff nfs rw 0 0
box:/a /mnt/ssh fuse.sshfs rw 0 0
vol /mnt/gluster fuse.glusterfs rw 0 0
/dev/vdc /mnt/over ext4 rw 0 0
filer:/o /mnt/over nfs4 rw 0 0
""".encode("latin-1")


@pytest.fixture
def mounts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A file in place of the system's own list."""
    listing = tmp_path / "mounts"
    listing.write_bytes(MOUNTS)
    monkeypatch.setattr(module, "_MOUNTS", listing)
    return listing


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/mnt", "ext4"),
        ("/mnt/home", "nfs4"),
        ("/mnt/home/me/raygate", "nfs4"),
        ("/mnt/homework", "ext4"),
        ("/mnt/home/local/x", "xfs"),
        ("/mnt/two words\\/x", "nfs"),
        ("/mnt/däten/x", "cifs"),
        (os.fsdecode(b"/mnt/\xff/x"), "nfs"),
        ("/mnt/over/x", "nfs4"),
    ],
)
def test_file_system_is_that_of_the_innermost_mount(mounts: Path, path: str, kind: str) -> None:
    """Names with spaces, backslashes and any bytes at all included."""
    assert filesystem_of(Path(path)) == kind


def test_no_list_of_mounts_is_no_answer(mounts: Path) -> None:
    """Elsewhere than on Linux nothing is known, and nothing refused."""
    mounts.unlink()
    assert filesystem_of(Path("/")) == ""


@pytest.mark.parametrize(
    "kind",
    ["nfs4", "cifs", "smb3", "9p", "ceph", "lustre", "fuse.sshfs", "fuse.nobody-knows"],
)
def test_a_network_file_system_is_not_trusted(mounts: Path, tmp_path: Path, kind: str) -> None:
    """Nor what runs in user space, behind which there may be one."""
    mounts.write_text(f"/dev/vda / ext4 rw 0 0\nfiler:/ {tmp_path} {kind} rw 0 0\n")
    assert untrusted(tmp_path / "gateway") == kind


@pytest.mark.parametrize(
    "kind", ["ext4", "xfs", "overlay", "tmpfs", "btrfs", "fuseblk", "fuse.fuse-overlayfs"]
)
def test_a_local_file_system_is(mounts: Path, tmp_path: Path, kind: str) -> None:
    """What one machine's kernel alone holds is trusted."""
    mounts.write_text(f"/dev/vda / ext4 rw 0 0\nx {tmp_path} {kind} rw 0 0\n")
    assert untrusted(tmp_path / "gateway") is None


def test_a_link_is_judged_by_where_it_leads(mounts: Path, tmp_path: Path) -> None:
    """A local folder's name may lead to a filer."""
    (tmp_path / "far").mkdir()
    (tmp_path / "near").symlink_to(tmp_path / "far")
    mounts.write_text(f"/dev/vda / ext4 rw 0 0\nfiler:/ {tmp_path / 'far'} nfs rw 0 0\n")
    assert untrusted(tmp_path / "near") == "nfs"
