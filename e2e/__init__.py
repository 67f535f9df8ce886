"""End-to-end tests on a real Kubernetes: a package, so that `python -m e2e.cluster` and the tests share its helpers."""
