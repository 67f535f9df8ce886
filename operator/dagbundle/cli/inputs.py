"""Reads what commands are given: resources, grants and manifests from files, bundle names, the database's URL.

The models are imported by the functions that need them: a command has work to start before they are loaded.
"""

# ruff: noqa: PLC0415 - see above

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from dagbundle import errors
from dagbundle.cli import documents

if TYPE_CHECKING:
    from dagbundle.resources import bundle as bundle_models
    from dagbundle.resources import grants as grant_models
    from dagbundle.resources import manifest as manifests
    from dagbundle.rollout.model import BundleKey

MAX_RESOURCE_BYTES = 1024 * 1024
"""etcd refuses larger objects, so no cluster would take one either."""


PYTHON_HINT = (
    "name the Python of an environment that has Airflow 3: --python, the environment variable DAGBUNDLE_PYTHON, "
    'or in pyproject.toml: [tool.dagbundle] python = ".venv/bin/python"'
)


_FILE_HINT = "-f names a file with a DagBundle, a folder of such files, or `-` for standard input"
_PROJECT_HINT = 'the only key is `python`, as in: [tool.dagbundle] python = ".venv/bin/python"'
_PROJECT_KEYS = frozenset({"python"})


def lacks_airflow(failure: str) -> bool:
    """Tell whether a parser failed because its interpreter has no Airflow, or too old a one."""
    return "must have Airflow 3.0 or newer" in failure


def with_python_hint(error: errors.DagBundleError) -> errors.DagBundleError:
    """Add to an error how to name the interpreter, where it says that the one that was taken has no Airflow."""
    if lacks_airflow(error.message):
        error.hint = PYTHON_HINT
    return error


def resource(path: pathlib.Path, bundle: str | None = None) -> bundle_models.DagBundle:
    """Read and validate one DagBundle.

    Args:
        path: A file, `-` for standard input, or a folder of files. Documents of other kinds beside it are passed over.
        bundle: Which one, as NAMESPACE/NAME, where there are several.

    Raises:
        ResourceError: It is not valid; there is none, or several and none was chosen.
        UsageError: `bundle` is no name.
    """
    from dagbundle.resources import base
    from dagbundle.resources import bundle as bundle_models

    found = _resources(path)
    bundles = [document for document in found if _is_bundle(document.value)]
    wanted = None
    if bundle is not None:
        key = bundle_key(bundle)
        wanted = f"{key.namespace}/{key.name}"
        bundles = [document for document in bundles if _name_of(document.value) == wanted]
    elif len(found) == 1:
        bundles = found  # the error names the fields that it lacks
    if len(bundles) != 1:
        raise _not_one(path, found, wanted)
    (document,) = bundles
    return base.validate(bundle_models.DagBundle, document.value, what=f"DagBundle in {document.file}")


def _not_one(path: pathlib.Path, found: Sequence[documents.Document], wanted: str | None) -> errors.ResourceError:
    """Return the error of what holds no DagBundle, not the one that is wanted, or several."""
    from dagbundle.cli import naming

    there = [(_name_of(item.value), item) for item in found if _is_bundle(item.value)]
    there.sort(key=lambda one: one[0])
    where = "standard input" if str(path) == documents.STDIN else str(path)
    if not there:
        kinds = sorted(
            {str(item.value.get("kind", "no kind")) if isinstance(item.value, dict) else "no mapping" for item in found}
        )
        what = f"holds no DagBundle, but {', '.join(kinds)}" if found else "holds no YAML document"
        return errors.ResourceError(
            f"{where} {what}", hint="-f takes a file with a document of kind DagBundle; docs/manifest.md shows one"
        )
    for name, _ in there:
        places = [item.place for named, item in there if named == name]
        if len(places) > 1 and wanted in {None, name}:
            return errors.ResourceError(
                f"{where} holds DagBundle {name} more than once: in {' and in '.join(places)}",
                hint="remove all but one of them, or give one another name or namespace",
            )
    listed = ", ".join(name if str(item.file) == str(path) else f"{name} ({item.file})" for name, item in there)
    if wanted is None:
        return errors.ResourceError(
            f"{where} holds {len(there)} DagBundles, and a command takes one: {listed}",
            hint=f"choose one, as in --bundle {there[0][0]}",
        )
    return errors.ResourceError(
        f"{where} holds no DagBundle {wanted}, but {listed}", hint=naming.near(wanted, [name for name, _ in there])
    )


def subdirs_of_bundles_in(folder: pathlib.Path) -> Iterator[tuple[pathlib.Path, list[str]]]:
    """Yield each DagBundle that a file of a folder holds: the file, and its subdirs as far as they can be read."""
    for path in _yaml_files(folder):
        with contextlib.suppress(errors.ResourceError):
            for document in documents.read(path, MAX_RESOURCE_BYTES) if _speaks_of_bundles(path) else ():
                if _is_bundle(document.value):
                    spec = document.value.get("spec")
                    subdirs = spec.get("subdirs") if isinstance(spec, dict) else None
                    paths = [entry.get("path") for entry in subdirs or () if isinstance(entry, dict)]
                    yield path, [subdir for subdir in paths if isinstance(subdir, str)]


def interpreter(option: str | None) -> str | None:
    """Return the parser's interpreter: the option, else DAGBUNDLE_PYTHON, else what the project file names.

    The project file is the nearest pyproject.toml of the repository with a table `tool.dagbundle`; a relative path in
    it starts at its folder. As root it may name no path, because the author of the checkout would then choose what root
    runs. None means this interpreter: nothing names another one.

    Raises:
        UsageError: The project file cannot be read, or names a path where this is root.
    """
    named = option or os.environ.get("DAGBUNDLE_PYTHON")
    if named:
        return named
    here = pathlib.Path.cwd()
    for folder in (here, *here.parents):
        path = folder / "pyproject.toml"
        try:
            data = path.read_bytes()
        except OSError:
            data = b""
        if b"tool.dagbundle" in data:
            return _project_python(path, data)
        if (folder / ".git").exists():
            break
    return None


def _project_python(path: pathlib.Path, data: bytes) -> str | None:
    import tomllib

    try:
        settings = tomllib.loads(data.decode()).get("tool", {}).get("dagbundle", {})
        python = settings.get("python")
    except (ValueError, AttributeError) as error:
        raise errors.UsageError(f"{path} cannot be read: {error}", hint=_PROJECT_HINT) from error
    unknown = sorted(settings.keys() - _PROJECT_KEYS)
    if unknown:
        raise errors.UsageError(f"{path}: [tool.dagbundle] has the unknown key {unknown[0]!r}", hint=_PROJECT_HINT)
    if python is None:
        return None
    if not isinstance(python, str):
        raise errors.UsageError(
            f"{path}: python of [tool.dagbundle] must be a text, and is {type(python).__name__}", hint=_PROJECT_HINT
        )
    if "/" not in python:
        return python
    if os.geteuid() == 0:
        raise errors.UsageError(
            f"{path} names the interpreter {python!r}, which a checkout chose and which would run as root",
            hint="name it yourself, by --python or DAGBUNDLE_PYTHON",
        )
    return str(path.parent / python)


def grants(path: pathlib.Path | None) -> grant_models.Grants | None:
    """Read and validate a grants file; None stays None. Raises `ResourceError`."""
    if path is None:
        return None
    from dagbundle.resources import base
    from dagbundle.resources import grants as grant_models

    return base.validate(grant_models.Grants, documents.one(path, MAX_RESOURCE_BYTES), what=f"grants in {path}")


def manifest_of(folder: pathlib.Path) -> manifests.Manifest | None:
    """Read the manifest in a bundle's root (AIP-85), as the parser does, which applies it; None where there is none.

    Raises:
        ResourceError: It is not valid.
    """
    from dagbundle.resources import base
    from dagbundle.resources import manifest as manifests

    path = folder / manifests.FILE_NAME
    if path.is_symlink() or not path.is_file():
        return None
    return base.validate(manifests.Manifest, documents.one(path, manifests.MAX_BYTES), what=f"manifest {path}")


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


def _resources(path: pathlib.Path) -> list[documents.Document]:
    """Read what `-f` names."""
    files = [path]
    if path.is_dir() and str(path) != documents.STDIN:
        files = list(_yaml_files(path))
        if not files:
            raise errors.ResourceError(f"the folder {path} holds no .yaml, .yml or .json file", hint=_FILE_HINT)
    elif str(path) != documents.STDIN and not path.exists():
        raise errors.ResourceError(f"{path} is not there", hint=_FILE_HINT)
    return [document for file in files for document in documents.read(file, MAX_RESOURCE_BYTES)]


def _yaml_files(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    try:
        found = sorted(folder.iterdir())
    except OSError:
        return
    yield from (path for path in found if path.suffix in {".yaml", ".yml", ".json"} and path.is_file())


def _speaks_of_bundles(path: pathlib.Path) -> bool:
    try:
        with path.open("rb") as file:
            return b"DagBundle" in file.read(MAX_RESOURCE_BYTES)
    except OSError:
        return False


def _is_bundle(item: object) -> bool:
    return isinstance(item, dict) and item.get("kind") == "DagBundle"


def _name_of(item: Any) -> str:
    metadata = item.get("metadata")
    named = metadata if isinstance(metadata, dict) else {}
    return f"{named.get('namespace', 'default')}/{named.get('name', '')}"
