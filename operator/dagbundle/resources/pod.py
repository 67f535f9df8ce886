"""What a team may say about the pods that parse its bundle, and nothing that would make them less confined.

Values that Kubernetes defines (an env entry, a volume, a toleration) are passed on as they are: the API server judges
them when the Job is created, as the subdir's own account.
"""

from __future__ import annotations

from typing import Annotated, Any

import pydantic

from dagbundle.resources import base

_MOST_NAME = 317
"""Characters of the name of a label or annotation, as Kubernetes has it: prefix, slash and name."""
Label = Annotated[str, pydantic.Field(max_length=317)]
Amounts = Annotated[dict[str, Annotated[str, pydantic.Field(max_length=64)]], pydantic.Field(max_length=20)]


class Resources(base.Model):
    """Requests and limits of the parser's container."""

    requests: Annotated[Amounts, pydantic.Field(description="As Kubernetes' `requests`.")] = pydantic.Field(
        default_factory=lambda: {"cpu": "100m", "memory": "512Mi"}
    )
    limits: Annotated[Amounts, pydantic.Field(description="As Kubernetes' `limits`.")] = pydantic.Field(
        default_factory=lambda: {"cpu": "2", "memory": "2Gi"}
    )


class Pod(base.Model):
    """The pods that parse the bundle."""

    python: Annotated[
        str,
        pydantic.Field(
            min_length=1,
            max_length=256,
            pattern=r"^[^\x00-\x1f]+$",
            description="The image's interpreter, by name or path.",
        ),
    ] = "python3"
    env: Annotated[
        list[base.Object],
        pydantic.Field(max_length=200, description="Environment variables, as a container's `env` in Kubernetes."),
    ] = pydantic.Field(default_factory=list)
    env_from: Annotated[
        list[base.Object],
        pydantic.Field(max_length=50, description="ConfigMaps and Secrets to take variables from, as `envFrom`."),
    ] = pydantic.Field(default_factory=list)
    volumes: Annotated[
        list[base.Object],
        pydantic.Field(
            max_length=50, description="Volumes, as a pod's `volumes`. hostPath is refused by restricted pods."
        ),
    ] = pydantic.Field(default_factory=list)
    volume_mounts: Annotated[
        list[base.Object],
        pydantic.Field(max_length=50, description="Where they appear, as a container's `volumeMounts`."),
    ] = pydantic.Field(default_factory=list)
    image_pull_secrets: Annotated[
        list[Annotated[str, pydantic.Field(max_length=253)]],
        pydantic.Field(max_length=16, description="Names of Secrets of this namespace that pull the image."),
    ] = pydantic.Field(default_factory=list)
    node_selector: Annotated[
        dict[str, Label], pydantic.Field(max_length=50, description="Labels that the node must have.")
    ] = pydantic.Field(default_factory=dict)
    tolerations: Annotated[
        list[base.Object],
        pydantic.Field(max_length=50, description="Taints that are tolerated, as a pod's `tolerations`."),
    ] = pydantic.Field(default_factory=list)
    labels: Annotated[
        dict[str, Label],
        pydantic.Field(
            max_length=50, description="More labels for Job and pods, such as Kueue's `kueue.x-k8s.io/queue-name`."
        ),
    ] = pydantic.Field(default_factory=dict)
    annotations: Annotated[
        dict[str, Annotated[str, pydantic.Field(max_length=4096)]],
        pydantic.Field(max_length=50, description="More annotations for the pods."),
    ] = pydantic.Field(default_factory=dict)
    priority_class_name: Annotated[
        str | None, pydantic.Field(max_length=253, description="PriorityClass of the pods.")
    ] = None
    resources: Annotated[Resources, pydantic.Field(description="Requests and limits of the parser's container.")] = (
        pydantic.Field(default_factory=Resources)
    )
    scratch: Annotated[
        base.Quantity, pydantic.Field(description="Size of /tmp, the only place where DAG files can write.")
    ] = "1Gi"

    @pydantic.field_validator("labels", "annotations", "node_selector")
    @classmethod
    def _short_names(cls, value: dict[str, str]) -> dict[str, str]:
        long = next((key for key in value if len(key) > _MOST_NAME), None)
        if long is not None:
            raise ValueError(f"{long[:60]!r}… is longer than {_MOST_NAME} characters")
        return value

    @pydantic.field_validator("env", "volumes", "volume_mounts")
    @classmethod
    def _named(cls, value: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for index, entry in enumerate(value):
            if not isinstance(entry.get("name"), str):
                raise ValueError(  # noqa: TRY004 - pydantic takes no other
                    f"entry {index} has no name that is a text"
                )
        return value

    @pydantic.field_validator("labels", "annotations")
    @classmethod
    def _not_ours(cls, value: dict[str, str]) -> dict[str, str]:
        ours = [key for key in value if key.partition("/")[0].endswith("dagbundle.dev")]
        if ours:
            raise ValueError(f"{ours[0]!r} is the operator's own")
        return value
