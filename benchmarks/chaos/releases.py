"""Other releases of this code: the same with a higher version, in folders of their own."""

import shutil
from pathlib import Path

ROOT = Path(__file__).parents[2]
_PACKAGES = ("actors", "deployments")


def release(folder: Path, major: int) -> Path:
    """Make release MAJOR.0.0 below a folder; where it is, for PYTHONPATH.

    It tells its version by the metadata that lie beside it, and in a module of its own.
    """
    made = folder / f"release-{major}"
    for package in _PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, made / package, ignore=ignored)
    info = made / f"raygate-{major}.0.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: raygate\nVersion: {major}.0.0\n")
    (made / "actors" / "changed.py").write_text(f'"""New in this release."""\n\nMAJOR = {major}\n')
    return made
