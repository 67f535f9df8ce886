"""Whether Python code could learn where it lies, or where AIRFLOW_HOME does.

Where it could not, its result is the same in another folder, and closure.py does not count the place. A word that
stands in the source for another reason costs a needless parse, and no more.
"""

from __future__ import annotations

import re
from pathlib import Path

_WORDS_OF_PLACE = (
    b"__file__", b"__path__", b"__spec__", b"__loader__", b"__cached__", b"cwd", b"fileloc", b"filepath", b".folder",
    b"inspect", b"sys.path", b"sys.argv", b"_getframe", b"abspath", b"realpath", b"absolute", b"traceback", b"tb_frame",
    b"co_filename", b"getsource", b"AIRFLOW_HOME", b"DAGS_FOLDER", b"dags_folder", b"airflow.configuration",
    b"airflow.settings",
)  # fmt: skip
"""What Python code that learns where it lies, or where AIRFLOW_HOME does, cannot do without, but for the next ones."""
_SETTINGS = re.compile(rb"airflow import [^\n]*(conf|settings)")


def tells_place(path: str) -> bool:
    """Whether a source has a word that such code cannot do without.

    Args:
        path: of the source; nothing is told by one that cannot be read.
    """
    try:
        source = Path(path).read_bytes()
    except OSError:
        return False
    return any(word in source for word in _WORDS_OF_PLACE) or bool(
        b"airflow import " in source and _SETTINGS.search(source)
    )
