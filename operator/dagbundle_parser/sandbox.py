"""What a child may do: its user, its limits, its descriptors; and how the parent gets rid of all that a child leaves.

As root, children become a spare user, one per slot, so that one kill reaches all that a file started and a file cannot
signal the parser; what they write they share (scratch.py). Otherwise children are the same user, and only limits and
the parent's process tree hold them.
"""

# ruff: noqa: PTH112, PTH116, PTH120, PTH208 - a hot path: pathlib's objects cost more than what they ask for

from __future__ import annotations

import contextlib
import os
import pwd
import resource
import signal
import socket
from collections.abc import Collection, Sequence

from dagbundle_parser import descent, handing, keeper, scratch
from dagbundle_parser.descent import prctl
from dagbundle_parser.errors import RunError
from dagbundle_parser.scratch import Scratch

SPARE_UIDS = range(60_578, 61_184)  # what systemd's table of UID ranges gives to nobody
_NOBODY = 65_534


class Shared:
    """What the spare users of a run share from the first of its sandboxes on.

    Args:
        root: the bundle's root; empty where there is none.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._scratch: Scratch | None = None
        self._claims: list[socket.socket] = []
        self._is_made = False
        self.listed: Sequence[tuple[str, bool]] = ()
        """All files that may be loaded, relative to the root, and whether any user may read each by its own mode."""

    def scratch(self) -> Scratch | None:
        """The folder in which they write, and what they are handed; None where there can be none.

        Raises:
            RunError: closed content of the bundle cannot be copied.
        """
        if not self._is_made:
            self._is_made = True
            (gid,), self._claims = _claim_uids(1)  # no other run's
            needs = handing.Handing(self._root, handing.needed_by_python(), _working_folder())
            bundle = (self._root, self._holds_closed_files())
            self._scratch = scratch.make(gid, SPARE_UIDS, needs, bundle, keeper.bequeath)
        return self._scratch

    def remove(self) -> None:
        """Remove the folder at once, where there is no keeper; no child may run any more."""
        if self._scratch is not None:
            self._scratch.remove()

    def _holds_closed_files(self) -> bool:
        if not self._root or not all(is_open for _, is_open in self.listed):
            return bool(self._root)
        folders = {""}
        for path, _ in self.listed:
            while (path := os.path.dirname(path)) not in folders:
                folders.add(path)
        return not all(handing.is_open(f"{self._root}/{folder}") for folder in folders)


class Sandbox:
    """How the children of one run are held.

    Args:
        run_as_user: the UID that children become, as root; None for a spare one each.
        memory_bytes: what a child may add to the parent's address space.
        processes: how many processes and threads a child may have.
        slots: how many children run at once.
        shared: what the run's children share; None where they are to share nothing.

    Raises:
        RunError: `CannotDropPrivileges`: root without the right to become somebody else; or of `Shared.scratch`.
    """

    def __init__(
        self,
        *,
        run_as_user: int | None,
        memory_bytes: int,
        processes: int,
        slots: int,
        shared: Shared | None = None,
    ) -> None:
        self._root = os.geteuid() == 0
        self._run_as_user = run_as_user
        self._memory = memory_bytes
        self._parent = os.getpid()
        self._own_uid_per_slot = self._root and run_as_user is None
        self._uids, self._claims = _claim_uids(slots) if self._own_uid_per_slot else ([_NOBODY] * slots, [])
        if self._root and run_as_user == 0:
            raise RunError("CannotDropPrivileges", "runAsUser is 0: DAG files are not run as root; choose another UID")
        if self._root:
            self._check_identity(slots)
        if self._own_uid_per_slot:
            for uid in _users_of_processes().intersection(self._uids):  # of a parser that was killed with its keepers
                _kill_all_of(uid)
        self._scratch: Scratch | None = None
        if shared is not None and self._own_uid_per_slot:
            self._scratch = shared.scratch()
        own = 0 if self._own_uid_per_slot else _tasks_of(self.uid(0))
        self._processes = own + processes * (1 if self._own_uid_per_slot else slots)
        # Orphans become our children, so that they can be found; and no child may look into our descriptors.
        descent.inherit_orphans()
        prctl(descent.PR_SET_DUMPABLE, 0)

    def uid(self, slot: int) -> int:
        """The user that the child in `slot` runs as."""
        if not self._root:
            return os.geteuid()
        if self._run_as_user is not None:
            return self._run_as_user
        return self._uids[slot]

    def enter_view(self) -> None:
        """Let the calling process, a fresh child with all of its parent's descriptors, see what children share."""
        if self._scratch is not None:
            self._scratch.enter()

    def _check_identity(self, slots: int) -> None:
        wanted = [self.uid(slot) for slot in range(slots)]
        if _can_become(wanted):
            return
        if self._run_as_user is None and _can_become([_NOBODY]):
            self._uids, self._own_uid_per_slot = [_NOBODY] * slots, False
            return
        raise RunError(
            "CannotDropPrivileges",
            f"the parser runs as root and cannot become user {wanted[0]}, so DAG files would run as root: "
            "run it as another user (runAsNonRoot), or give it the capabilities SETUID, SETGID and KILL",
        )

    def enter(self, slot: int) -> None:
        """Confine the calling process, a fresh child, for good."""
        os.setsid()
        descent.inherit_orphans()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        limit, hard = _address_space() + self._memory, resource.getrlimit(resource.RLIMIT_AS)[1]
        if hard == resource.RLIM_INFINITY or limit < hard:
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        with contextlib.suppress(OSError, ValueError):  # a hard limit that is lower already
            resource.setrlimit(resource.RLIMIT_NPROC, (self._processes, self._processes))
        if self._root:
            gid = self._scratch.gid if self._scratch is not None else _group_of(self.uid(slot))
            _become(self.uid(slot), gid)
        prctl(descent.PR_SET_NO_NEW_PRIVS, 1)
        prctl(descent.PR_SET_DUMPABLE, 1)
        prctl(descent.PR_SET_PDEATHSIG, signal.SIGKILL)  # after the change of user, which clears it
        if os.getppid() != self._parent:
            os._exit(1)

    def sweep(self, slot: int, ended: int, running: Collection[int]) -> None:
        """Kill what a child that has ended left running.

        Args:
            slot: where the child ran.
            ended: its pid.
            running: the pids of the children that are still wanted.
        """
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(ended, signal.SIGKILL)
        # A child keeps its orphans while it lives (see `enter`): what has come to this process is of one that does not.
        if not descent.children(running):
            return
        if self._own_uid_per_slot:
            _kill_all_of(self.uid(slot))
        else:
            descent.end_descendants(running)


def _working_folder() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 - a text
    except OSError:
        return ""


def _become(uid: int, gid: int | None = None) -> None:
    gid = _group_of(uid) if gid is None else gid
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def _group_of(uid: int) -> int:
    try:
        return pwd.getpwuid(uid).pw_gid or uid
    except KeyError:
        return uid


def _can_become(uids: Sequence[int]) -> bool:
    """Whether this process may become each of some users, tried in one child: forking this process is not cheap."""
    pid = os.fork()
    if pid == 0:
        try:
            for uid in uids[1:]:
                os.setresgid(-1, _group_of(uid), 0)
                os.setresuid(-1, uid, 0)
                os.setresuid(-1, 0, 0)
                os.setresgid(-1, 0, 0)
            _become(uids[0])
        except BaseException:  # noqa: BLE001 - whatever happened, the answer is no
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0


def _kill_all_of(uid: int) -> None:
    """Kill every process of a user at once, which not even a fork bomb outruns."""
    pid = os.fork()
    if pid == 0:
        try:
            _become(uid)
            os.kill(-1, signal.SIGKILL)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def _claim_uids(count: int) -> tuple[list[int], list[socket.socket]]:
    """Spare UIDs that no other parser on this machine uses now; each is held by an abstract socket's name."""
    uids: list[int] = []
    claims: list[socket.socket] = []
    for uid in SPARE_UIDS:
        if len(uids) == count:
            return uids, claims
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0dagbundle-parser-uid-{uid}")
        except OSError:
            claim.close()
        else:
            uids.append(uid)
            claims.append(claim)
    raise RunError("TooManyProcesses", f"fewer than {count} spare UIDs are free: ask for fewer processes")


def _users_of_processes() -> set[int]:
    users = set()
    for name in os.listdir("/proc") if os.path.isdir("/proc") else []:
        if name.isdigit():
            with contextlib.suppress(OSError):
                users.add(os.stat(f"/proc/{name}").st_uid)
    return users


def _tasks_of(uid: int) -> int:
    """How many threads a user runs now: RLIMIT_NPROC counts them all."""
    count = 0
    for pid, _, _ in descent.processes():
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{pid}").st_uid == uid:
                count += len(os.listdir(f"/proc/{pid}/task"))
    return count


def _address_space() -> int:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - a hot path
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 1 << 32
