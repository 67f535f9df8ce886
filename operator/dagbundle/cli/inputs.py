"""Reads what commands are given: resources, grants and manifests from files, bundle names, the database's URL.

The models are imported by the functions that need them: a command has work to start before they are loaded.
"""

# ruff: noqa: PLC0415 - see above

from __future__ import annotations

import os
import pathlib
from typing import TYPE_CHECKING

from dagbundle import errors

if TYPE_CHECKING:
    from dagbundle.resources import bundle as bundle_models
    from dagbundle.resources import grants as grant_models
    from dagbundle.rollout.model import BundleKey

MAX_RESOURCE_BYTES = 1024 * 1024
"""etcd refuses larger objects, so no cluster would take one either."""


def resource(path: pathlib.Path) -> bundle_models.DagBundle:
    """Read and validate one DagBundle. Raises `ResourceError`."""
    from dagbundle.resources import base
    from dagbundle.resources import bundle as bundle_models

    return base.validate(bundle_models.DagBundle, _yaml(path, MAX_RESOURCE_BYTES), what=f"DagBundle in {path}")


def grants(path: pathlib.Path | None) -> grant_models.Grants | None:
    """Read and validate a grants file; None stays None. Raises `ResourceError`."""
    if path is None:
        return None
    from dagbundle.resources import base
    from dagbundle.resources import grants as grant_models

    return base.validate(grant_models.Grants, _yaml(path, MAX_RESOURCE_BYTES), what=f"grants in {path}")


def with_manifest(bundle: bundle_models.DagBundle, folder: pathlib.Path) -> bundle_models.DagBundle:
    """Fill in what the spec leaves open from the manifest in the bundle's root, if there is one (AIP-85).

    Raises:
        ResourceError: There is a manifest and it is not valid.
    """
    from dagbundle.resources import base, manifest

    path = folder / manifest.FILE_NAME
    if path.is_symlink() or not path.is_file():
        return bundle
    found = base.validate(manifest.Manifest, _yaml(path, manifest.MAX_BYTES), what=f"manifest {path}")
    parser = bundle.spec.parser
    filled = parser.model_copy(
        update={
            "type": parser.type or found.parser_type,
            "processes": parser.processes or found.bundle_config.processes,
        }
    )
    return bundle.model_copy(update={"spec": bundle.spec.model_copy(update={"parser": filled})})


def bundle_key(text: str) -> BundleKey:
    """Read `NAMESPACE/NAME` (or `NAMESPACE.NAME`, or `NAME` in namespace default). Raises `UsageError`."""
    from dagbundle.rollout.model import BundleKey

    namespace, separator, name = text.partition("/" if "/" in text else ".")
    if not separator:
        namespace, name = "default", text
    if not namespace or not name or "/" in name:
        raise errors.UsageError(f"{text!r} is no bundle", hint="write NAMESPACE/NAME, as `dagbundle get bundles` does")
    return BundleKey(namespace, name)


def database_url(option: str | None) -> str:
    """Return the database to use: the option, else DAGBUNDLE_DATABASE_URL, else SQLite in the user's data folder."""
    url = option or os.environ.get("DAGBUNDLE_DATABASE_URL")
    if url:
        return url
    base_folder = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")  # noqa: PTH111 - keeps `~` where HOME is unknown
    folder = pathlib.Path(base_folder) / "dagbundle"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.UsageError(
            f"the default database cannot be kept in {folder}: {error.strerror}",
            hint="set DAGBUNDLE_DATABASE_URL, for instance to sqlite:////path/to/dagbundle.db",
        ) from error
    return f"sqlite:///{folder / 'dagbundle.db'}"


def _yaml(path: pathlib.Path, limit: int) -> object:
    """Read one YAML document, bounded; anchors that multiply are refused as any too large document is."""
    import yaml

    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise errors.ResourceError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > limit:
        raise errors.ResourceError(f"{path} is larger than {limit:,} bytes")
    try:
        events = list(yaml.parse(data, Loader=yaml.SafeLoader))
        if any(isinstance(event, yaml.AliasEvent) for event in events):
            raise errors.ResourceError(f"{path} uses YAML aliases, which are not accepted here", hint="write it out")
        documents = list(yaml.safe_load_all(data))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise errors.ResourceError(f"{path} is no YAML that can be read: {error}") from error
    if len(documents) != 1:
        raise errors.ResourceError(f"{path} holds {len(documents)} documents; exactly one is expected")
    return documents[0]
