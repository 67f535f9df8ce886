"""Container images from layers, without a Docker engine: tar files and three JSON documents, as OCI has them.

The same folder always gives the same layer, and the same layers and configuration the same digest. Tests build their
images with this and push them with `Cluster.push`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import io
import json
import os
import pathlib
import platform
import tarfile
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import IO, Any, Self

from e2e.cluster import layout

_MEDIA = "application/vnd.oci.image"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_FAST = 1
"""Layers only travel inside this machine: a better compression would cost more than it saves."""


@dataclasses.dataclass(frozen=True, slots=True)
class Layer:
    """A gzipped tar file: the digest is the file's, the diff_id that of its content."""

    path: pathlib.Path
    digest: str
    diff_id: str

    def remember(self) -> None:
        """Write the digests beside the file, for `recall`."""
        text = json.dumps({"digest": self.digest, "diff_id": self.diff_id})
        self.path.with_suffix(".json").write_text(text)

    @classmethod
    def recall(cls, path: pathlib.Path) -> Self | None:
        """Return the layer that was kept at a path, or None."""
        about = path.with_suffix(".json")
        return cls(path, **json.loads(about.read_text())) if about.exists() and path.exists() else None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """What an image says about running it."""

    env: Mapping[str, str] = dataclasses.field(default_factory=lambda: {"PATH": _PATH, "LANG": "C.UTF-8"})
    entrypoint: Sequence[str] = ()
    cmd: Sequence[str] = ()
    user: str = ""
    working_dir: str = ""
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Return it as the OCI format has it."""
        content = {
            "Env": [f"{name}={value}" for name, value in self.env.items()],
            "Entrypoint": list(self.entrypoint),
            "Cmd": list(self.cmd),
            "User": self.user,
            "WorkingDir": self.working_dir,
            "Labels": dict(self.labels),
        }
        return {name: value for name, value in content.items() if value}


@dataclasses.dataclass(frozen=True, slots=True)
class Image:
    """Layers, the lowest first, and a configuration."""

    layers: tuple[Layer, ...]
    config: ImageConfig = dataclasses.field(default_factory=ImageConfig)

    def adding(self, *layers: Layer, env: Mapping[str, str] | None = None, **changes: Any) -> Image:
        """Return an image with more layers on top, more environment, and other fields of `ImageConfig` changed."""
        merged = {**self.config.env, **(env or {})}
        return Image((*self.layers, *layers), dataclasses.replace(self.config, env=merged, **changes))

    @property
    def digest(self) -> str:
        """The digest of its manifest, which a registry gives it too."""
        return _digest(self._documents()[1])

    def write(self, path: pathlib.Path, *, name: str = "localhost/image:1") -> pathlib.Path:
        """Write an OCI archive; the name counts only for `Cluster.load`, as a push gives its own."""
        with tarfile.open(path, "w") as archive:
            for blob, content in self._texts(name).items():
                _add(archive, blob, content)
            for layer in self._distinct():
                info = tarfile.TarInfo(_blob(layer.digest))
                info.size = layer.path.stat().st_size
                with layer.path.open("rb") as file:
                    archive.addfile(info, file)
        return path

    def write_folder(self, folder: pathlib.Path) -> pathlib.Path:
        """Write the same unpacked, the layers as links: a push then reads none that the registry has."""
        for blob, content in self._texts("localhost/image:1").items():
            target = folder / blob
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        for layer in self._distinct():
            (folder / _blob(layer.digest)).symlink_to(layer.path)
        return folder

    def _distinct(self) -> Collection[Layer]:
        return {layer.digest: layer for layer in self.layers}.values()

    def _texts(self, name: str) -> dict[str, bytes]:
        """Return all of it but the layers, by path."""
        config, manifest = self._documents()
        annotations = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rpartition(":")[2]}
        top = {**_described(manifest, "manifest.v1+json"), "annotations": annotations}
        return {
            "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
            "index.json": _json({"schemaVersion": 2, "manifests": [top]}),
            **{_blob(_digest(blob)): blob for blob in (manifest, config)},
        }

    def _documents(self) -> tuple[bytes, bytes]:
        machine = platform.machine()
        config = _json(
            {
                "architecture": _ARCHITECTURES.get(machine, machine),
                "os": "linux",
                "config": self.config.document(),
                "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in self.layers]},
            }
        )
        media = f"{_MEDIA}.layer.v1.tar+gzip"
        layers = [
            {"mediaType": media, "digest": layer.digest, "size": layer.path.stat().st_size} for layer in self.layers
        ]
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{_MEDIA}.manifest.v1+json",
            "config": _described(config, "config.v1+json"),
            "layers": layers,
        }
        return config, _json(manifest)


def layer_of(
    folder: pathlib.Path,
    prefix: str = "/",
    uid: int = 0,
    gid: int = 0,
    *,
    keep_owners: bool = False,
    keep_times: bool = False,
    path: pathlib.Path | None = None,
) -> Layer:
    """Make a layer of what a folder contains, as it shall lie below `prefix` in the image.

    Everything belongs to one user and has no time, so that the same content always gives the same digest. Python's
    compiled files must then not compare times: `compileall --invalidation-mode unchecked-hash`.

    Args:
        folder: What to take; links stay links.
        prefix: An absolute path in the image.
        uid: Whom it belongs to.
        gid: Which group it belongs to.
        keep_owners: Keep everybody's own, for a whole root file system.
        keep_times: Keep the files' times, for compiled files that compare them.
        path: Where to write it; by default among the layers of the running cluster, under its digest.
    """

    def adjusted(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uname = info.gname = ""
        info.mtime = int(info.mtime) if keep_times else 0
        if not keep_owners:
            info.uid, info.gid = uid, gid
        return info

    inside = prefix.strip("/")
    with _writing(path) as (archive, result):
        for depth in range(1, len(parts := pathlib.PurePosixPath(inside).parts) + 1):
            info = tarfile.TarInfo("/".join(parts[:depth]))
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            # only the last one is ours; a later layer's /opt must not take /opt from root
            archive.addfile(adjusted(info) if depth == len(parts) else info)
        for here, folders, files in os.walk(folder):
            folders.sort()
            for name in sorted(folders + files):
                source = pathlib.Path(here, name)
                relative = source.relative_to(folder).as_posix()
                archive.add(source, f"{inside}/{relative}".lstrip("/"), recursive=False, filter=adjusted)
                archive.inodes.clear()  # type: ignore[attr-defined] # two names of one file here are two files there
    return result[0]


def layer_of_files(
    files: Mapping[str, str | bytes],
    *,
    uid: int = 0,
    gid: int = 0,
    mode: int = 0o644,
    path: pathlib.Path | None = None,
) -> Layer:
    """Make a layer of a few files: absolute paths and what is in them; written where `layer_of` would."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            target = pathlib.Path(folder) / name.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.encode() if isinstance(content, str) else content)
            target.chmod(mode)
        for directory in (path for path in pathlib.Path(folder).rglob("*") if path.is_dir()):
            directory.chmod(0o755)
        return layer_of(pathlib.Path(folder), "/", uid, gid, path=path)


class _Hashing(io.RawIOBase):
    """Passes on what is written and hashes it."""

    def __init__(self, target: IO[bytes]) -> None:
        self._target = target
        self._hash = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self._hash.update(data)
        return self._target.write(data)

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"


@contextlib.contextmanager
def _writing(path: pathlib.Path | None) -> Iterator[tuple[tarfile.TarFile, list[Layer]]]:
    """Open a layer to write; when that ends, its file is whole and in place, and the list has the layer."""
    folder = path.parent if path else layout.runs() / "layers"
    folder.mkdir(parents=True, exist_ok=True)
    result: list[Layer] = []
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        unfinished = pathlib.Path(file.name)
        try:
            outer = _Hashing(file)
            with gzip.GzipFile("", "wb", _FAST, outer, mtime=0) as compressed:
                inner = _Hashing(compressed)  # type: ignore[arg-type] # a GzipFile writes bytes, whatever it is called
                with tarfile.open(fileobj=inner, mode="w|", format=tarfile.PAX_FORMAT) as archive:
                    yield archive, result
        except BaseException:
            unfinished.unlink()
            raise
    final = path or folder / f"{outer.digest.partition(':')[2]}.gz"
    unfinished.rename(final)
    result.append(Layer(final, outer.digest, inner.digest))


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _described(content: bytes, kind: str) -> dict[str, Any]:
    return {"mediaType": f"{_MEDIA}.{kind}", "digest": _digest(content), "size": len(content)}
