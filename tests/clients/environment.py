"""The environment that client programs run in, apart from the gateway's own packages.

A client that shared them would hide what a user's client meets: other versions of the same
libraries. Run as a program it makes the environment where it is missing and prints its
interpreter.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
LOCK = HERE / "requirements.lock"
ROOT = HERE.parents[1]


def clients_python() -> Path:
    """The interpreter that has the locked clients; made at first use, then reused.

    Raises subprocess.CalledProcessError when the installation fails.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    home = ROOT / ".cache" / f"clients-{version}"
    python = home / "bin" / "python"
    installed = home / "installed.lock"
    if not (python.exists() and installed.exists() and installed.read_text() == LOCK.read_text()):
        print("raygate: installing the clients under test into", home.name, file=sys.stderr)
        shutil.rmtree(home, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--require-hashes", "--no-deps"]
        subprocess.run(
            [*pip, "-r", str(LOCK)],
            check=True,
            env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        )
        shutil.copy(LOCK, installed)
    return python


if __name__ == "__main__":
    print(clients_python())
