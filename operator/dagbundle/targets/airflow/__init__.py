"""Airflow 3's metadata database: what its scheduler, API server and workers read comes from our rollouts.

The only package of the trusted side that imports Airflow, and only what decodes and stores; what reaches it was vetted
(`rollout.vetting`). It uses Airflow's internals, which move with every minor: all of them are in `adapter`.
"""
