"""The node's links on this machine, another cluster that is in the way, and what a cluster leaves behind.

Kubernetes' programs make mounts, chains, links and cgroups that nobody removes when they are killed. Only what
carries a name of this cluster is removed; only one cluster can have these names at a time, which `refuse_another`
sees to.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import shlex
import shutil
import time
from collections.abc import Iterator

from e2e.cluster.errors import ClusterError
from e2e.cluster.processes import command_of, run, stop_pid

NAME = "dagbundle-e2e"
NODE = "10.231.0.1"
PODS = "10.244.0.0/16"
POD_BRIDGE = "dagbundle-pods"
SOCKETS = pathlib.Path("/run") / NAME
"""A socket's path may have no more than 107 characters, and one below the home folder may be longer."""

_NODE_BRIDGE = "dagbundle-node"
_OWNER = SOCKETS / "owner"
_KUBERNETES_CHAIN = re.compile(r"KUBE-[A-Z0-9-]+")
_POD_CHAIN = re.compile(r"CNI-[0-9a-f]+")
_SYSCTLS = ("net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables")
_CGROUPS = pathlib.Path("/sys/fs/cgroup")
_CGROUP_SECONDS = 5.0
_SHIM = "containerd-shim"  # as far as the kernel keeps a name
_CNI_STATE = pathlib.Path("/var/lib/cni")
_POD_LOG_LINKS = pathlib.Path("/var/log/containers")
_DEVICE_SOCKET = pathlib.Path("/var/lib/kubelet/device-plugins/kubelet.sock")
_EMPTIED = (
    _CNI_STATE / "results",
    _CNI_STATE,
    _POD_LOG_LINKS,
    _DEVICE_SOCKET.parent,
    _DEVICE_SOCKET.parent.parent,
    pathlib.Path("/run/containerd/s"),
    pathlib.Path("/run/containerd"),
    pathlib.Path("/run/netns"),
)
"""Folders that Kubernetes' programs make wherever their settings point, removed when nothing is left in them."""


def refuse_another(folder: pathlib.Path) -> None:
    """Take the machine for the cluster in a folder.

    Raises:
        ClusterError: Another cluster is up here, as a node's addresses and chains exist only once.
    """
    owner = pathlib.Path(_OWNER.read_text()) if _OWNER.exists() else None
    for pid in _processes():
        if command_of(pid) != "kubelet" or not _in_our_network(pid):
            continue
        line = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        if str(folder) + os.sep in line:
            continue
        if owner is not None and str(owner) + os.sep in line:
            what = f"DAGBUNDLE_CLUSTER_HOME={owner.parents[1]} python -m e2e.cluster down --purge"
            raise ClusterError(f"Another e2e cluster is up on this machine. Take it down first: {what}")
        raise ClusterError(
            f"This machine is a Kubernetes node already (kubelet, pid {pid}), and can be only one. "
            "Stop that one, or test on it: KUBECONFIG=…"
        )
    if owner is not None and owner != folder:
        clean_up(owner)
    SOCKETS.mkdir(mode=0o711, exist_ok=True)
    _OWNER.write_text(str(folder))


def connect() -> None:
    """Make the node's own address, which pods reach too, and let packets through."""
    if not pathlib.Path("/sys/class/net", _NODE_BRIDGE).exists():
        run("ip", "link", "add", _NODE_BRIDGE, "type", "bridge")
        run("ip", "address", "add", f"{NODE}/32", "dev", _NODE_BRIDGE)
        run("ip", "link", "set", _NODE_BRIDGE, "up")
    for name in _SYSCTLS:
        with contextlib.suppress(FileNotFoundError):  # where bridges never ask iptables, the setting is not there
            pathlib.Path("/proc/sys", name).write_text("1")


def end_shims() -> None:
    """Kill what containerd leaves when it ends: a process for each pod, with our socket in its arguments."""
    for pid in _processes():
        if command_of(pid) == _SHIM:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if f"{SOCKETS}{os.sep}".encode() in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes():
                    stop_pid(pid, command=_SHIM)


def unmount(folder: pathlib.Path) -> None:
    """Unmount everything below a cluster's folder and its sockets', the innermost first."""
    below = (f"{folder}{os.sep}", f"{SOCKETS}{os.sep}")
    lines = pathlib.Path("/proc/self/mounts").read_text().splitlines()
    points = [line.split(" ")[1].encode().decode("unicode_escape") for line in lines]
    for point in sorted((point for point in points if point.startswith(below)), reverse=True):
        run("umount", "--lazy", point)


def remove_pod_networks() -> None:
    """Remove the network namespaces of pods that ended without a kubelet; the CNI library keeps notes of them."""
    for note in (_CNI_STATE / "results").glob(f"{NAME}-*"):
        about = json.loads(note.read_text())
        for interface in about["result"]["interfaces"]:
            if "sandbox" in interface:
                path = pathlib.Path(interface["sandbox"])
                with contextlib.suppress(ClusterError):  # already unmounted
                    run("umount", path)
                path.unlink(missing_ok=True)
        for other in note.parent.glob(f"*-{about['containerId']}-*"):
            other.unlink()


def clean_up(folder: pathlib.Path) -> None:
    """Remove everything that a cluster left, once none of its programs runs; its own folder too."""
    end_shims()
    remove_pod_networks()
    unmount(folder)
    for link in (_NODE_BRIDGE, POD_BRIDGE):
        if pathlib.Path("/sys/class/net", link).exists():
            run("ip", "link", "delete", link)
    for tables in ("iptables", "ip6tables"):
        if shutil.which(tables, path="/usr/sbin:/sbin:/usr/bin"):
            for table in ("nat", "filter", "mangle"):
                _remove_chains(tables, table)
    for log in _POD_LOG_LINKS.glob("*.log"):
        if log.is_symlink() and str(log.readlink()).startswith(str(folder)):
            log.unlink()
    _DEVICE_SOCKET.unlink(missing_ok=True)  # the only kubelet of this machine was ours
    for empty in _EMPTIED:
        with contextlib.suppress(OSError):  # somebody else's are in it, or it is not there
            empty.rmdir()
    _remove_cgroups()
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(SOCKETS, ignore_errors=True)


def _processes() -> Iterator[int]:
    return (int(path.name) for path in pathlib.Path("/proc").iterdir() if path.name.isdigit())


def _in_our_network(pid: int) -> bool:
    """Say whether a process is on this machine's network, and not in a container, as kind's kubelets are."""
    try:
        return pathlib.Path(f"/proc/{pid}/ns/net").readlink() == pathlib.Path("/proc/self/ns/net").readlink()
    except OSError:
        return False


def _remove_chains(tables: str, table: str) -> None:
    """Remove Kubernetes' chains, the pod network's, and every rule that leads to them."""
    try:
        rules = run(tables, "--wait", "--table", table, "--list-rules").splitlines()
    except ClusterError:  # this kernel has no such table, so nobody put anything into it
        return
    chains = [line.split()[1] for line in rules if line.startswith("-N ")]
    # podman and nerdctl name chains as our plugins do, so theirs are told apart by the network in their rules' comments
    pods = {chain for line in rules if NAME in line for chain in _POD_CHAIN.findall(line)}
    ours = [chain for chain in chains if _KUBERNETES_CHAIN.fullmatch(chain) or chain in pods]
    for line in rules:
        words = shlex.split(line)
        leads_to_ours = words[0] == "-A" and words[1] not in ours and set(words) & set(ours)
        if leads_to_ours:
            run(tables, "--wait", "--table", table, "-D", *words[1:])
    for action in ("-F", "-X"):
        for chain in ours:
            run(tables, "--wait", "--table", table, action, chain)


def _remove_cgroups() -> None:
    """Remove the pods' cgroups; the kernel lets go of one a moment after its last process has ended."""
    deadline = time.monotonic() + _CGROUP_SECONDS
    for top in (*_CGROUPS.glob("kubepods"), *_CGROUPS.glob("*/kubepods")):
        for folder, _, _ in os.walk(top, topdown=False):
            while True:
                try:
                    pathlib.Path(folder).rmdir()
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        break
                    time.sleep(0.05)
