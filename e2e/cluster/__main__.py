"""The cluster by hand: `python -m e2e.cluster --help`."""

from __future__ import annotations

import argparse
import pathlib
import shutil
import sys
import time

from e2e.cluster import bases, layout
from e2e.cluster.apiserver import NAMESPACES_AND_GARBAGE, ApiServer, sweep
from e2e.cluster.cluster import Cluster
from e2e.cluster.errors import ClusterError
from e2e.cluster.install import install, missing

_ABOUT = "A real Kubernetes on this machine, for the end-to-end tests."
_AFTER = (
    f"Everything lies in DAGBUNDLE_CLUSTER_HOME, by default ~/.cache/dagbundle-e2e. Kubernetes is {layout.KUBERNETES}; "
    "to test on another cluster, give the tests a KUBECONFIG."
)


def main() -> int:
    """Carry out one command; return 1 when it failed."""
    options = _options().parse_args()
    try:
        _carry_out(options)
    except ClusterError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m e2e.cluster", description=_ABOUT, epilog=_AFTER)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, about: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=about, description=about)

    one = command("install", "install Debian's packages and build the rest: 7 minutes, once for each version")
    one.add_argument("--api-only", action="store_true", help="only what `up --api-only` needs")
    one = command("up", "start the cluster, unless it is up, and print the path of its kubeconfig")
    one.add_argument("--api-only", action="store_true", help="another API server with its etcd, and nothing else")
    one.add_argument("--controllers", action="store_true", help="with --api-only: delete namespaces and orphans, too")
    one = command("down", "stop the cluster, and every API server that `up --api-only` started")
    one.add_argument("--purge", action="store_true", help="remove all that it made, but what `install` built")
    one = command("push", "push an OCI archive to the cluster's registry and print its digest")
    one.add_argument("file", type=pathlib.Path)
    one.add_argument("name", help="as in registry.test/NAME")
    one = command("load", "import an OCI archive into the node, past the registry")
    one.add_argument("file", type=pathlib.Path)
    one = command("base", "make Debian with Python as an image, push it and print its digest")
    one.add_argument("name", help="as in registry.test/NAME")
    command("kubeconfig", "print the path of the cluster's kubeconfig")
    return parser


def _carry_out(options: argparse.Namespace) -> None:
    cluster = Cluster()
    match options.command:
        case "install":
            install(api_only=options.api_only)
        case "up":
            _say(_api_server(controllers=options.controllers) if options.api_only else _up(cluster))
        case "down":
            _down(cluster, purge=options.purge)
        case "push":
            _say(cluster.push(options.file, options.name))
        case "load":
            cluster.load(options.file)
        case "base":
            _say(cluster.push_image(bases.debian(), options.name))
        case "kubeconfig":
            _say(_existing(cluster.kubeconfig))


def _up(cluster: Cluster) -> pathlib.Path:
    began = time.monotonic()
    if cluster.up():
        sys.stderr.write(f"up after {time.monotonic() - began:.1f} s\n")
    return cluster.kubeconfig


def _down(cluster: Cluster, *, purge: bool) -> None:
    sweep(detached=True)
    cluster.down(purge=purge)
    if purge:
        for path in layout.runs().glob("*"):
            if not path.name.startswith("api-"):  # these belong to tests that are running now
                shutil.rmtree(path, ignore_errors=True)


def _existing(kubeconfig: pathlib.Path) -> pathlib.Path:
    if not kubeconfig.exists():
        raise ClusterError("No cluster is up: run `python -m e2e.cluster up`")
    return kubeconfig


def _api_server(*, controllers: bool) -> pathlib.Path:
    if lacking := missing(api_only=True):
        raise ClusterError(f"Missing: {', '.join(lacking)}. Run `python -m e2e.cluster install --api-only` first")
    server = ApiServer(controllers=NAMESPACES_AND_GARBAGE if controllers else ())
    try:
        server.up()
    except BaseException:
        server.purge()
        raise
    return server.kubeconfig


def _say(text: object) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
