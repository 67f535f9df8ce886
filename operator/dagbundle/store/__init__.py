"""The store: the trusted single point that reads, versions, deactivates and publishes DAGs (AIP-85's DagStore).

`DagStore` is what other packages use; its answers are in `records`, or the domain's own values.
"""

from dagbundle.store.dagstore import DagStore

__all__ = ["DagStore"]
