"""Peak memory of a first pass, per child that parses files and in all, sampled every 50 ms in runs of their own.

Per child: its private memory (USS), which is what one more process costs. In all: the proportional memory (PSS) of the
whole tree of processes. A database server is in neither; on SQLite there is none.
"""

from __future__ import annotations

from bench import corpus, databases, harness, sides

MEGABYTE = 1e6


def measure(settings: harness.Settings) -> list[harness.Row]:
    """Compare the memory that each corpus takes."""
    rows = []
    with harness.scratch("corpora") as folder, databases.server("sqlite") as server:
        for files in corpus.throughput_set(folder, settings):
            found: list[tuple[harness.Usage, harness.Usage]] = []
            for number in range(settings.repeat or 1):
                harness.progress(f"memory: {files.name}, round {number + 1}")
                with sides.fresh(files, server, settings) as both:
                    peer = both.peer.process(watch_memory=True)
                    found.append((both.ours.process(watch_memory=True), peer))
            child = [(mine.child_memory / MEGABYTE, peer.child_memory / MEGABYTE) for mine, peer in found]
            total = [(mine.memory / MEGABYTE, peer.memory / MEGABYTE) for mine, peer in found]
            rows += [
                harness.compare(f"{files.name}, per child", child, unit="MB", better="less"),
                harness.compare(f"{files.name}, in all", total, unit="MB", better="less"),
            ]
    return rows


if __name__ == "__main__":
    harness.main(__doc__ or "", {"memory": measure})
