"""A second pass with nothing changed: CPU time of the whole command, after a first pass filled the database.

Stock Airflow parses every file again in every pass of a new processor; we skip what provably did not change. On SQLite,
so that a server's CPU time does not hide.
"""

from __future__ import annotations

from bench import corpus, databases, harness, sides


def measure(settings: harness.Settings) -> list[harness.Row]:
    """Compare the second passes over many small files."""
    with harness.scratch("corpora") as folder, databases.server("sqlite") as server:
        files = corpus.generated(folder / "files", files=100 if settings.quick else 1000, dags_per_file=1)
        found: list[tuple[harness.Usage, harness.Usage]] = []
        for number in sides.rounds(files, settings):
            harness.progress(f"second pass: {files.name}, round {number + 1}")
            with sides.fresh(files, server, settings) as both:
                both.peer.process()
                both.ours.process()
                peer = both.peer.process()
                found.append((both.ours.process(), peer))
                both.check()
    name = f"second pass over {files.name}, nothing changed"
    return [
        harness.compare(f"{name}, CPU", [(mine.cpu, peer.cpu) for mine, peer in found], unit="s", better="less"),
        harness.compare(f"{name}, wall", [(mine.wall, peer.wall) for mine, peer in found], unit="s", better="less"),
    ]


if __name__ == "__main__":
    harness.main(__doc__ or "", {"unchanged": measure})
