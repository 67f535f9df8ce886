"""One DAG file, as an editor has it checked: `dagbundle parse` against `python file.py` in the same environment.

A ratio of 0.83 is 1.2 times the CPU time of plain Python, which is the most that it may take.
"""

from __future__ import annotations

import pathlib
import sys

from bench import corpus, harness


def measure(settings: harness.Settings) -> list[harness.Row]:
    """Compare the CPU time of whole processes, with their children."""
    with harness.scratch("corpora") as folder:
        made = corpus.generated(folder / "one", files=1, dags_per_file=1)
        (file,) = sorted(made.folder.glob("*.py"))
        home = folder / "home"
        home.mkdir()
        env = {**harness.inherited(), "AIRFLOW_HOME": str(home), "HOME": str(home)}
        python = str(settings.airflow_python)
        parse = [
            str(pathlib.Path(sys.executable).with_name("dagbundle")),
            "parse",
            str(file),
            "--python",
            python,
            "--quiet",
        ]
        plain = [python, str(file)]
        rounds = []
        harness.progress("one file")
        for warm_up in (parse, plain):  # bytecode and the page cache
            harness.run(warm_up, env=env, folder=folder)
        for _ in range(settings.repeat or (3 if settings.quick else 9)):
            ours = harness.run(parse, env=env, folder=folder).cpu
            rounds.append((ours, harness.run(plain, env=env, folder=folder).cpu))
    return [harness.compare("CPU of one file", rounds, unit="s", better="less")]


if __name__ == "__main__":
    harness.main(__doc__ or "", {"one_file": measure}, peer="python file.py")
