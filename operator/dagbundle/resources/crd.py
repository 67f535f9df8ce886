"""Generates the CustomResourceDefinition from the models, so that the two cannot differ.

pydantic emits JSON Schema; Kubernetes takes a structural subset of OpenAPI v3 (no $ref, no anyOf with null, no const),
so the schema is inlined and rewritten here. Source: apiextensions.k8s.io/v1, "Specifying a structural schema".
"""

from __future__ import annotations

from typing import Any

from dagbundle.resources import bundle
from dagbundle.resources import status as status_models

Schema = dict[str, Any]
_ANY: Schema = {"x-kubernetes-preserve-unknown-fields": True}
_KEPT = frozenset(
    {
        "type",
        "description",
        "default",
        "enum",
        "pattern",
        "minLength",
        "maxLength",
        "minimum",
        "maximum",
        "minItems",
        "maxItems",
        "minProperties",
        "maxProperties",
    }
)


def definition() -> Schema:
    """Return the CRD as a document."""
    spec = _structural(bundle.Spec.model_json_schema(by_alias=True))
    status = _structural(status_models.Status.model_json_schema(by_alias=True))
    status["default"] = {"observedGeneration": -1}
    _as_map(spec["properties"]["subdirs"], "path")
    _add_rules(spec)
    _as_map(status["properties"]["conditions"], "type")
    _as_map(status["properties"]["subdirs"], "path")
    schema: Schema = {
        "type": "object",
        "description": "A bundle of DAGs: parsed in isolation, judged, published whole or not at all.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "maxLength": 64},
            "kind": {"type": "string", "maxLength": 64},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status,
        },
    }
    plural = f"{bundle.KIND.lower()}s"
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{bundle.API_GROUP}"},
        "spec": {
            "group": bundle.API_GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": bundle.KIND,
                "listKind": f"{bundle.KIND}List",
                "plural": plural,
                "singular": bundle.KIND.lower(),
                "shortNames": ["dagb"],
                "categories": ["airflow"],
            },
            "versions": [
                {
                    "name": bundle.API_VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        {
                            "name": "Ready",
                            "type": "string",
                            "jsonPath": '.status.conditions[?(@.type=="Ready")].status',
                        },
                        {
                            "name": "Reason",
                            "type": "string",
                            "jsonPath": '.status.conditions[?(@.type=="Ready")].reason',
                        },
                        {"name": "DAGs", "type": "integer", "jsonPath": ".status.dags.total"},
                        {"name": "Errors", "type": "integer", "jsonPath": ".status.importErrors"},
                        {"name": "Version", "type": "string", "jsonPath": ".status.version.published", "priority": 1},
                        {
                            "name": "Message",
                            "type": "string",
                            "jsonPath": '.status.conditions[?(@.type=="Ready")].message',
                            "priority": 1,
                        },
                        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
                    ],
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


def _add_rules(spec: Schema) -> None:
    """Say in CEL what the models check in Python, so that the API server refuses it before anybody stores it."""
    spec["properties"]["source"]["x-kubernetes-validations"] = [
        {
            "rule": "has(self.image) != has(self.workloadRef)",
            "message": "exactly one of image and workloadRef is needed",
        }
    ]
    spec["properties"]["subdirs"]["items"]["x-kubernetes-validations"] = [
        {
            "rule": "!self.path.split('/').exists(part, part == '..')",
            "message": "path must stay inside of the bundle: no '..'",
        }
    ]
    spec["x-kubernetes-validations"] = [
        {
            "rule": "has(self.bundleName) == has(oldSelf.bundleName) "
            "&& (!has(self.bundleName) || self.bundleName == oldSelf.bundleName)",
            "message": "bundleName is immutable: Airflow's runs and history refer to it",
        }
    ]


def _as_map(schema: Schema, key: str) -> None:
    """Make a list a map by one of its fields, so that server-side apply merges it and repeated keys are refused."""
    schema["x-kubernetes-list-type"] = "map"
    schema["x-kubernetes-list-map-keys"] = [key]


def _structural(root: Schema) -> Schema:
    definitions: dict[str, Schema] = root.get("$defs", {})

    def rewrite(node: Schema) -> Schema:
        if "$ref" in node:
            target = definitions[node["$ref"].rsplit("/", 1)[-1]]
            node = {**target, **{key: value for key, value in node.items() if key != "$ref"}}
        branches = [branch for branch in node.get("anyOf", []) if branch.get("type") != "null"]
        result: Schema = {key: value for key, value in node.items() if key in _KEPT and value is not None}
        if len(branches) == 1:
            result = {**rewrite(branches[0]), **result}
        elif branches:
            # a number or a percentage: the one union that the API has
            text = next(branch for branch in branches if branch["type"] == "string")
            result |= {
                "x-kubernetes-int-or-string": True,
                "anyOf": [{"type": "integer"}, {"type": "string"}],
                "x-kubernetes-validations": [
                    {
                        "rule": f"type(self) == int ? self >= 0 : self.matches('{text['pattern']}')",
                        "message": "must be a number that is not negative, or a percentage such as 10%",
                    }
                ],
            }
        if "const" in node:
            result["enum"] = [node["const"]]
        if "properties" in node:
            result["properties"] = {name: rewrite(item) for name, item in node["properties"].items()}
            if node.get("required"):
                result["required"] = sorted(node["required"])
        elif node.get("type") == "object":  # not one whose only branch has been written already
            values = node.get("additionalProperties")
            result |= {"additionalProperties": rewrite(values)} if isinstance(values, dict) else dict(_ANY)
        if "items" in node:
            result["items"] = rewrite(node["items"])
        return result

    return rewrite(root)
