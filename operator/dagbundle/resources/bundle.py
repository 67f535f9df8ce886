"""The DagBundle resource, `dagbundle.dev/v1alpha1`: what a team applies.

Only fields that act are here; each source, parser type and policy enters with the code that carries it out. The CRD
(`crds/`) is generated from these models, so a field's description is what `kubectl explain` prints.
"""

from __future__ import annotations

import posixpath
from typing import Annotated, Any, Literal

import pydantic

from dagbundle.resources import base
from dagbundle.resources import pod as pods

API_GROUP = "dagbundle.dev"
API_VERSION = "v1alpha1"
KIND = "DagBundle"

Name = Annotated[str, pydantic.Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", min_length=1, max_length=63)]
"""A DNS label (RFC 1123), as Kubernetes names are."""
DagIdPrefix = Annotated[str, pydantic.Field(pattern=r"^[\w.\-]+$", min_length=1, max_length=200)]
RelativePath = Annotated[
    str,
    pydantic.Field(min_length=1, max_length=512, pattern=r"^[^/\\\x00-\x1f][^\\\x00-\x1f]*$"),
]


class ImageSource(base.Model):
    """A container image that holds the DAG files."""

    reference: Annotated[
        str,
        pydantic.Field(
            min_length=1,
            max_length=512,
            description="The image, by tag or digest: `registry.example/sales-dags:1.4.2`.",
        ),
    ]
    path: Annotated[
        base.AbsolutePath, pydantic.Field(description="Absolute path of the bundle's root inside the image.")
    ] = "/opt/airflow/dags"


class WorkloadRef(base.Model):
    """A workload of the bundle's namespace whose container image holds the DAG files."""

    kind: Annotated[Literal["Deployment", "StatefulSet"], pydantic.Field(description="Kind of the workload.")] = (
        "Deployment"
    )
    name: Annotated[
        str, pydantic.Field(pattern=r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$", max_length=253, description="Its name.")
    ]
    container: Annotated[
        Name | None, pydantic.Field(description="Which of its containers. Default: the only one, else the first.")
    ] = None
    path: Annotated[
        base.AbsolutePath, pydantic.Field(description="Absolute path of the bundle's root in the image.")
    ] = "/opt/airflow/dags"


class Source(base.Model):
    """Where the bundle's files come from: exactly one of these."""

    image: Annotated[ImageSource | None, pydantic.Field(description="A container image that holds the DAG files.")] = (
        None
    )
    workload_ref: Annotated[
        WorkloadRef | None,
        pydantic.Field(
            description="A Deployment or StatefulSet whose image holds the DAG files: parsed when it rolls out a new "
            "image, published when its rollout is complete."
        ),
    ] = None

    @pydantic.model_validator(mode="after")
    def _exactly_one(self) -> Source:
        if (self.image is None) == (self.workload_ref is None):
            raise ValueError("exactly one of image and workloadRef is needed")
        return self

    @property
    def path(self) -> str:
        """Absolute path of the bundle's root."""
        source = self.image or self.workload_ref
        assert source is not None  # noqa: S101 - the validator's promise, for the type checker
        return source.path

    def __str__(self) -> str:
        """The source as messages name it."""
        if self.image is not None:
            return f"image {self.image.reference}"
        assert self.workload_ref is not None  # noqa: S101 - likewise
        return f"the image of {self.workload_ref.kind} {self.workload_ref.name}"


class Parser(base.Model):
    """How the bundle is ingested (AIP-85's BundleParser), and the limits of parsing one file."""

    type: Annotated[
        str | None,
        pydantic.Field(
            pattern=r"^[A-Za-z][\w.\-]*$",
            max_length=100,
            description="`SinglePass`, or the name of a parser that the parser's environment offers through the entry "
            "point group `dagbundle.parsers`. Default: the one that the bundle's manifest names, else SinglePass.",
        ),
    ] = None
    config: Annotated[
        base.Object,
        pydantic.Field(description="Settings that are handed to the parser as they are, at most 16 KiB as JSON."),
    ] = pydantic.Field(default_factory=dict)
    processes: Annotated[
        int | None,
        pydantic.Field(
            ge=1,
            le=64,
            description="How many files are parsed at a time (AIP-43's -P). Default: the manifest's, else 2.",
        ),
    ] = None
    file_timeout: Annotated[
        base.Duration, pydantic.Field(description="Longest time that parsing one file may take, as in `30s` or `2m`.")
    ] = "30s"
    file_memory: Annotated[
        base.Quantity,
        pydantic.Field(description="Memory that parsing one file may add to the warmed parser, as in `512Mi`."),
    ] = "1Gi"
    max_unchanged_age: Annotated[
        base.Duration,
        pydantic.Field(
            description="A file that looks unchanged is parsed again when its last parse is older than this, which "
            "bounds what no hook can see (the clock, C libraries)."
        ),
    ] = "1h"
    connections: Annotated[
        Annotated[list[base.NamePattern], pydantic.Field(max_length=1000)] | None,
        pydantic.Field(
            description="Airflow's Connections that DAG files may read while they are parsed: names, or the beginning "
            "of names and `*`. It narrows the grant. Default: all that is granted."
        ),
    ] = None
    variables: Annotated[
        Annotated[list[base.NamePattern], pydantic.Field(max_length=1000)] | None,
        pydantic.Field(description="Likewise Variables."),
    ] = None

    @pydantic.field_validator("file_timeout")
    @classmethod
    def _positive(cls, value: str) -> str:
        if base.seconds(value) < 1:
            raise ValueError("must be at least 1s")
        return value


class Subdir(base.Model):
    """A part of the bundle with an identity of its own (AIP-43's --subdir)."""

    path: Annotated[
        RelativePath,
        pydantic.Field(description="Folder relative to the bundle's root; `.` is the whole bundle. No `..`."),
    ]
    service_account_name: Annotated[
        Annotated[str, pydantic.Field(pattern=r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$", max_length=253)] | None,
        pydantic.Field(
            description="ServiceAccount of the bundle's namespace that its parser Job runs as. "
            "Default: the namespace's `default`."
        ),
    ] = None
    run_as_user: Annotated[
        int | None,
        pydantic.Field(
            ge=1, le=2**31 - 1, description="UID that DAG files are parsed as. Locally it acts when run as root."
        ),
    ] = None
    dag_id_prefix: Annotated[
        DagIdPrefix | None,
        pydantic.Field(
            description="Every dag_id of this subdir must start with it (AIP-43's DagPolicy). It narrows the grant."
        ),
    ] = None
    shards: Annotated[
        int,
        pydantic.Field(ge=1, le=32, description="Into how many pods of one Indexed Job its files are divided."),
    ] = 1

    @pydantic.field_validator("path")
    @classmethod
    def _stays_inside(cls, value: str) -> str:
        if ".." in value.split("/"):
            raise ValueError(f"{value!r} must not contain '..'")
        return posixpath.normpath(value)


MIN_RETRY_SECONDS = 10
"""What a shorter `retryInterval` counts as: each attempt makes Jobs."""
OPERATIONAL = frozenset({"suspend", "timeout", "retry_interval", "deletion_policy"})
"""Fields of the spec that do not decide a rollout's result, so changing them starts none."""
LATER: dict[tuple[str, ...], object] = {("parser", "connections"): None, ("parser", "variables"): None}
"""Fields that 0.1.0 did not have, as paths in JSON (`*` is each item of a list), each with its default there.

A field with its default does not count in a template hash, so an upgrade that brings the field starts no rollout.
"""


class RolloutPolicy(base.Model):
    """What a failed parse does, and how much a rollout may take away."""

    scope: Annotated[
        Literal["Bundle", "Subdir"],
        pydantic.Field(description="Whether one subdir's failure holds the others: `Bundle` publishes all or nothing."),
    ] = "Bundle"
    on_import_error: Annotated[
        Literal["KeepLastGood", "Fail", "Deactivate"],
        pydantic.Field(
            description="What a broken file does. `KeepLastGood` keeps its DAGs as they were and publishes the rest; "
            "`Fail` publishes nothing; `Deactivate` deactivates its DAGs, as stock Airflow does."
        ),
    ] = "KeepLastGood"
    max_import_errors: Annotated[
        base.CountOrPercent | None,
        pydantic.Field(
            description="Blocks a rollout with more broken files than this. A percentage is of the scope's files, "
            "rounded up. Default: no limit."
        ),
    ] = None
    max_removed_dags: Annotated[
        base.CountOrPercent | None,
        pydantic.Field(
            description="Blocks a rollout that removes more DAGs than this. A percentage is of the scope's live DAGs, "
            "rounded up; moved DAGs do not count. Default: no limit."
        ),
    ] = None


def _whole_bundle() -> list[Subdir]:
    return [Subdir(path=".")]


class Spec(base.Model):
    """The desired state."""

    source: Annotated[Source, pydantic.Field(description="Where the bundle's files come from: exactly one.")]
    parser: Annotated[Parser, pydantic.Field(description="How the bundle is ingested, and the limits of one file.")] = (
        pydantic.Field(default_factory=Parser)
    )
    subdirs: Annotated[
        list[Subdir],
        pydantic.Field(
            min_length=1,
            max_length=64,
            description="Parts of the bundle, each parsed with an identity of its own. Default: the whole bundle.",
        ),
    ] = pydantic.Field(default_factory=_whole_bundle)
    rollout: Annotated[
        RolloutPolicy, pydantic.Field(description="What a failed parse does, and how much a rollout may take away.")
    ] = pydantic.Field(default_factory=RolloutPolicy)
    bundle_name: Annotated[
        Annotated[str, pydantic.Field(pattern=r"^[\w.\-]+$", max_length=200)] | None,
        pydantic.Field(description="Airflow's name of the bundle, if granted. Default: `<namespace>.<name>`."),
    ] = None
    pod: Annotated[pods.Pod, pydantic.Field(description="The pods that parse the bundle.")] = pydantic.Field(
        default_factory=pods.Pod
    )
    timeout: Annotated[
        base.Duration, pydantic.Field(description="Longest time that a subdir's Job may take, image pull included.")
    ] = "10m"
    retry_interval: Annotated[
        base.Duration,
        pydantic.Field(
            description="How long after a run that could not be carried out the rollout is tried again; at least `10s`."
        ),
    ] = "1m"
    deletion_policy: Annotated[
        Literal["Deactivate", "Orphan"],
        pydantic.Field(
            description="What deleting the DagBundle does to its DAGs: deactivate them, or leave them as they are."
        ),
    ] = "Deactivate"
    suspend: Annotated[bool, pydantic.Field(description="While true nothing is parsed or published.")] = False

    @pydantic.field_validator("subdirs")
    @classmethod
    def _unique_paths(cls, value: list[Subdir]) -> list[Subdir]:
        paths = [subdir.path for subdir in value]
        repeated = sorted({path for path in paths if paths.count(path) > 1})
        if repeated:
            raise ValueError(f"path {repeated[0]!r} occurs more than once")
        return value


class Metadata(pydantic.BaseModel):
    """The part of Kubernetes' ObjectMeta that is read here; the rest passes."""

    model_config = pydantic.ConfigDict(extra="allow", frozen=True, strict=True)

    name: Name
    namespace: Name = "default"


class DagBundle(base.Model):
    """A bundle of DAGs: parsed in isolation, judged, published whole or not at all."""

    api_version: Literal["dagbundle.dev/v1alpha1"]
    kind: Literal["DagBundle"]
    metadata: Metadata
    spec: Spec
    status: Annotated[dict[str, Any] | None, pydantic.Field(exclude=True)] = None
    """Written by the controller only; ignored when somebody applies it."""
