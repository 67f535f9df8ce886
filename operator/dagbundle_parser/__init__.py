"""The untrusted side of dagbundle-operator: it runs tenants' DAG files and reports what they hold.

Standard library only (Airflow, PyYAML and dag-factory inside loaders only), so that it runs in any tenant's
image without being installed there. It holds no credential and shares no code with the trusted side.
"""

__version__ = "0.2.0.dev0"

PROTOCOL = 1
"""The version of the wire protocol (docs/architecture.md) that this package speaks."""
