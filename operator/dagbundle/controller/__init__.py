"""The operator on a cluster: events in, one reconcile per bundle, status and Events out."""
