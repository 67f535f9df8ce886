"""The store's server: what parsers on a cluster ask for work and report to. Stateless, so any number of it may run.

`app.create` makes the application, `serving` runs it; only `tokens` knows Kubernetes. docs/server.md describes the API.
"""
