"""The node's image registry: one store, read under two names, one of which asks for a password.

Pods name images `registry.test/NAME`, or `private.test/NAME` for the same with a pull secret; containerd is told
where these are. So digests and pulls and refusals are real.
"""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile
from collections.abc import Mapping

from e2e.cluster.processes import Program, run

OPEN = "registry.test"
PRIVATE = "private.test"
USER = "puller"
PASSWORD = "pull-me"  # noqa: S105 # no secret: it guards test images on a bridge of this machine
_BCRYPT = "$2b$05$mXi3W.HjF2xrVY4pzRS2MeOx/UOuD07dz//V2jlGorcwbWjXbj35K"
"""The password as an htpasswd file has it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Registry:
    """The registry below a cluster's folder, at an address of the node."""

    folder: pathlib.Path
    address: str
    ports: Mapping[str, int]

    @property
    def programs(self) -> tuple[Program, Program]:
        """The open registry, which takes pushes too, and the private one."""
        return self._program("registry"), self._program("registry-private")

    def _program(self, name: str) -> Program:
        arguments = ("docker-registry", "serve", str(self.folder / f"{name}.yaml"))
        return Program(name=name, arguments=arguments, folder=self.folder)

    def configure(self, containerd: pathlib.Path) -> None:
        """Write the registries' files, and containerd's that say where their names lead."""
        store = f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {self.folder / 'registry'}}}}}\n"
        passwords = self.folder / "htpasswd"
        passwords.write_text(f"{USER}:{_BCRYPT}\n")
        access = f"auth: {{htpasswd: {{realm: private.test, path: {passwords}}}}}\n"
        for name, host, more in (("registry", OPEN, ""), ("registry-private", PRIVATE, access)):
            address = f"{self.address}:{self.ports[name]}"
            (self.folder / f"{name}.yaml").write_text(f'{store}http: {{addr: "{address}"}}\n{more}')
            hosts = containerd / host / "hosts.toml"
            hosts.parent.mkdir(parents=True, exist_ok=True)
            hosts.write_text(f'[host."http://{address}"]\n  capabilities = ["pull", "resolve"]\n')

    def push(self, source: pathlib.Path, name: str) -> str:
        """Push what `push` takes and return the digest of its manifest."""
        return push(source, f"{self.address}:{self.ports['registry']}/{name}")


def push(source: pathlib.Path, reference: str) -> str:
    """Push an OCI archive, or the folder of one, byte for byte, and return the digest; the registry needs no password.

    From a folder only the layers are read that the registry lacks.
    """
    kind = "oci" if source.is_dir() else "oci-archive"
    with tempfile.NamedTemporaryFile("r") as digest:
        options = ("--quiet", "--preserve-digests", "--dest-tls-verify=false", f"--digestfile={digest.name}")
        run("skopeo", "--insecure-policy", "copy", *options, f"{kind}:{source}", f"docker://{reference}")
        return digest.read().strip()
