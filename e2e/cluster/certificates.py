"""A certificate authority of the cluster's own, and the kubeconfigs of everybody who talks to its API server.

Keys are P-256: making eight RSA keys would take longer than starting etcd. Certificates are valid since yesterday, so
that a cluster which was just made can show what becomes of a program whose clock is behind.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import json
import pathlib
from collections.abc import Sequence

from e2e.cluster.processes import run

_BEFORE = dt.timedelta(days=1)
_AFTER = dt.timedelta(days=365)
_CONFIG = """\
[ca]
default_ca = usual
[usual]
database = {folder}/index.txt
new_certs_dir = {folder}
rand_serial = yes
unique_subject = no
default_md = sha256
copy_extensions = copy
policy = named
[named]
organizationName = optional
commonName = supplied
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
        self._request("ca", "/CN=dagbundle-e2e")
        self._sign("ca", "authority", "-selfsign")
        run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", self.file("sa.key"))
        run("openssl", "pkey", "-in", self.file("sa.key"), "-pubout", "-out", self.file("sa.pub"))

    def issue(self, name: str, subject: str, *, addresses: Sequence[str] = ()) -> None:
        """Issue `name`.crt and `name`.key to a subject such as `/O=group/CN=user`, a server's with its addresses."""
        if self.file(f"{name}.crt").exists():
            return
        alternatives = ("-addext", f"subjectAltName={','.join(addresses)}") if addresses else ()
        self._request(name, subject, *alternatives)
        self._sign(name, "leaf", "-cert", str(self.certificate))

    def _request(self, name: str, subject: str, *more: str) -> None:
        """Make a key, and ask for its certificate."""
        self.file("openssl.cnf").write_text(_CONFIG.format(folder=self.folder))  # anew: the folder may be an older one
        self.file("index.txt").touch()
        files = ("-keyout", str(self.file(f"{name}.key")), "-out", str(self.file(f"{name}.csr")))
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        run("openssl", "req", "-new", "-config", self.file("openssl.cnf"), *key, *files, "-subj", subject, *more)

    def _sign(self, name: str, kind: str, *more: str) -> None:
        """Sign what was asked for."""
        now = dt.datetime.now(dt.UTC)
        since, until = (f"{moment:%Y%m%d%H%M%SZ}" for moment in (now - _BEFORE, now + _AFTER))
        times = ("-startdate", since, "-enddate", until)
        files = ("-keyfile", str(self.file("ca.key")), "-in", str(self.file(f"{name}.csr")))
        options = ("-batch", "-notext", "-preserveDN", "-extensions", kind, *times, *files, *more)
        run("openssl", "ca", "-config", self.file("openssl.cnf"), *options, "-out", self.file(f"{name}.crt"))

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
