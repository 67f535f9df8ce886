"""A real Kubernetes for end-to-end tests, where neither Docker nor kind nor an image registry need be at hand.

Its programs come from Debian (etcd, containerd, runc, CNI plugins, docker-registry, skopeo) and are built from Go
modules (Kubernetes, CoreDNS, Helm). `Cluster` is one whole node and needs root; `ApiServer` is etcd and an API server
alone, for tests of faults. The tests use both, and `python -m e2e.cluster` is the same by hand; e2e/README.md has the
commands.
"""

from e2e.cluster.apiserver import ApiServer
from e2e.cluster.cluster import Cluster
from e2e.cluster.errors import ClusterError
from e2e.cluster.images import Image, ImageConfig, Layer, layer_of, layer_of_files
from e2e.cluster.kubectl import Kubectl

__all__ = [
    "ApiServer",
    "Cluster",
    "ClusterError",
    "Image",
    "ImageConfig",
    "Kubectl",
    "Layer",
    "layer_of",
    "layer_of_files",
]
