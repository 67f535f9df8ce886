"""What goes wrong with the cluster, told in one message that says what to do; apart, as every module here raises it."""

from __future__ import annotations


class ClusterError(Exception):
    """The cluster cannot do what it was asked to; the message says why, and what to do next."""
