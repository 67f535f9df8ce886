"""The store: the trusted single point that reads, versions, deactivates and publishes DAGs (AIP-85's DagStore).

`dagstore.DagStore` is what other packages use; its answers are in `records`, or the domain's own values.
"""
