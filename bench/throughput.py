"""Files per second of a first pass: parse every file and store its DAGs, from the start of the command to its end.

Both sides begin with empty tables and parse with two processes; peer and ours take turns, each round with databases of
its own. CPU time of the same runs stands beside it; a PostgreSQL server's own is in neither.
"""

from __future__ import annotations

from bench import corpus, databases, harness, sides


def measure(settings: harness.Settings) -> list[harness.Row]:
    """Compare every corpus on every database."""
    rows = []
    with harness.scratch("corpora") as folder:
        corpora = corpus.throughput_set(folder, settings)
        for kind in settings.databases:
            with databases.server(kind) as server:
                for files in corpora:
                    rows += compare(files, kind, server, settings)
    return rows


def compare(files: corpus.Corpus, kind: str, server: databases.Server, settings: harness.Settings) -> list[harness.Row]:
    """Compare one corpus on one database."""
    found: list[tuple[harness.Usage, harness.Usage]] = []
    for number in sides.rounds(files, settings):
        harness.progress(f"first pass: {files.name}, {kind}, round {number + 1}")
        with sides.fresh(files, server, settings) as both:
            peer = both.peer.process()
            found.append((both.ours.process(), peer))
            both.check()
    speeds = [(files.files / mine.wall, files.files / peer.wall) for mine, peer in found]
    efforts = [(mine.cpu, peer.cpu) for mine, peer in found]
    return [
        harness.compare(f"{files.name}, {kind}", speeds, unit="files/s", better="more"),
        harness.compare(f"{files.name}, {kind}, CPU", efforts, unit="s", better="less"),
    ]


if __name__ == "__main__":
    harness.main(__doc__ or "", {"throughput": measure})
