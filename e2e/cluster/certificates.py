"""A certificate authority of the cluster's own, and the kubeconfigs of everybody who talks to its API server.

Keys are P-256: making eight RSA keys would take longer than starting etcd.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import pathlib
from collections.abc import Sequence

from e2e.cluster.processes import run

_DAYS = "365"
_CONFIG = """\
[req]
prompt = no
distinguished_name = subject
[subject]
[authority]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,digitalSignature
subjectKeyIdentifier = hash
[leaf]
basicConstraints = critical,CA:FALSE
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Authority:
    """The authority in a folder; made when it is first needed."""

    folder: pathlib.Path

    @property
    def certificate(self) -> pathlib.Path:
        """What everybody trusts."""
        return self.folder / "ca.crt"

    def file(self, name: str) -> pathlib.Path:
        """Return the path of one of its files, such as `admin.key`."""
        return self.folder / name

    def make(self) -> None:
        """Make the authority, and the key pair that signs service accounts' tokens."""
        if self.file("sa.pub").exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file("openssl.cnf").write_text(_CONFIG)
        self._request("ca", "/CN=dagbundle-e2e", "-extensions", "authority")
        run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", self.file("sa.key"))
        run("openssl", "pkey", "-in", self.file("sa.key"), "-pubout", "-out", self.file("sa.pub"))

    def issue(self, name: str, subject: str, *, addresses: Sequence[str] = ()) -> None:
        """Issue `name`.crt and `name`.key to a subject such as `/O=group/CN=user`, a server's with its addresses."""
        if self.file(f"{name}.crt").exists():
            return
        alternatives = ("-addext", f"subjectAltName={','.join(addresses)}") if addresses else ()
        signed = ("-CA", str(self.certificate), "-CAkey", str(self.file("ca.key")), "-extensions", "leaf")
        self._request(name, subject, *signed, *alternatives)

    def _request(self, name: str, subject: str, *more: str) -> None:
        files = ("-keyout", str(self.file(f"{name}.key")), "-out", str(self.file(f"{name}.crt")))
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        config = ("-config", str(self.file("openssl.cnf")), "-days", _DAYS, "-subj", subject)
        run("openssl", "req", "-x509", *key, *config, *files, *more)

    def kubeconfig(self, user: str, subject: str, *, server: str, path: pathlib.Path) -> pathlib.Path:
        """Write a kubeconfig that is whole in itself, so that it can be copied into a Secret."""
        self.issue(user, subject)

        def embedded(name: str) -> str:
            return base64.b64encode(self.file(name).read_bytes()).decode()

        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": user,
            "clusters": [
                {"name": "e2e", "cluster": {"server": server, "certificate-authority-data": embedded("ca.crt")}}
            ],
            "users": [
                {
                    "name": user,
                    "user": {
                        "client-certificate-data": embedded(f"{user}.crt"),
                        "client-key-data": embedded(f"{user}.key"),
                    },
                }
            ],
            "contexts": [{"name": user, "context": {"cluster": "e2e", "user": user}}],
        }
        path.touch(mode=0o600)
        path.write_text(json.dumps(content, indent=1))  # JSON is YAML
        return path
