"""Interpreters that tests may use besides the one that runs them."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys


def oldest() -> str | None:
    """The oldest Python that tenants' images may have, if it is on PATH or installed beside the one that runs this."""
    beside = sorted(map(str, pathlib.Path(sys.base_prefix).parent.glob("*/bin/python3.10")))
    for candidate in filter(None, [shutil.which("python3.10"), *beside]):
        # a version manager's stand-in is there whether the version is or not: only running it tells
        environment = {"PATH": os.environ["PATH"]}
        done = subprocess.run([candidate, "--version"], capture_output=True, check=False, env=environment)
        if done.returncode == 0:
            return candidate
    return None
