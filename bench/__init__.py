"""Benchmarks against Airflow's own DAG processor: `make bench`, or one part alone, as in `python -m bench.throughput`.

Every figure comes from this machine and this run; peer and ours take turns, on the same files, with two parsing
processes each, on the same kind of database, each with the durability that it ships with. Linux only: memory is read
from /proc.
"""
