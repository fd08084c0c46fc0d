"""The environments that peers run in: their own packages, as locked, apart from ours."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.speed.programs import need

HERE = Path(__file__).parent
_CACHE = HERE.parents[2] / ".cache"


def python_bin() -> Path:
    """The folder of LiteLLM's programs; made at first use, then reused."""
    lock = HERE / "requirements.lock"
    home = _CACHE / f"peers-{sys.version_info.major}.{sys.version_info.minor}"
    if _is_new(home, lock):
        _say("LiteLLM")
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        subprocess.run(
            [*pip, "--require-hashes", "--no-deps", "-r", str(lock)],
            check=True,
            env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        )
        shutil.copy(lock, home / "installed.lock")
    return home / "bin"


def node_modules() -> Path:
    """The folder of Portkey's packages; made at first use. Raises Missing without Node."""
    npm, lock = need("npm", "npm"), HERE / "package-lock.json"
    home = _CACHE / "peers-node"
    if _is_new(home, lock):
        _say("Portkey's gateway")
        home.mkdir(parents=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, home / name)
        # The lock names no place to fetch from: that is npm's own affair. Its hashes are checked.
        subprocess.run(
            [npm, "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"],
            cwd=home,
            check=True,
        )
        shutil.copy(lock, home / "installed.lock")
    return home / "node_modules"


def _is_new(home: Path, lock: Path) -> bool:
    """Whether it must be made; what is left of another one is removed."""
    installed = home / "installed.lock"
    if installed.exists() and installed.read_bytes() == lock.read_bytes():
        return False
    shutil.rmtree(home, ignore_errors=True)
    return True


def _say(name: str) -> None:
    print(f"raygate: installing {name} into .cache, for this and later runs", file=sys.stderr)
