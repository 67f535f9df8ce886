"""An API server in memory: requests in, objects or refusals out, in the parts of Kubernetes that the controller uses.

`support.api_server.ApiServer` puts the controller's own client on top of it. `support.cluster_contract` holds both
to what a real API server does. No controller runs here: `collect_garbage` is called by the test.
"""

from __future__ import annotations

import datetime as dt
import itertools
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from kubernetes.client.exceptions import ApiException

from dagbundle import errors
from dagbundle.resources import base, crd
from dagbundle.resources import status as status_models

Object = dict[str, Any]
Watcher = Callable[[str, Object, bool], None]
"""Is given the kind of an object, the object, and whether it is gone."""


class Kind(NamedTuple):
    """A kind of objects."""

    name: str
    api: str
    counts: bool = False
    """Whether a change of its spec counts as a generation."""


KINDS: Mapping[str, Kind] = {
    "dagbundles": Kind("DagBundle", "dagbundle.dev/v1alpha1", counts=True),
    "jobs": Kind("Job", "batch/v1", counts=True),
    "deployments": Kind("Deployment", "apps/v1", counts=True),
    "statefulsets": Kind("StatefulSet", "apps/v1", counts=True),
    "pods": Kind("Pod", "v1"),
    "events": Kind("Event", "v1"),
}
_PATH = re.compile(
    r"/(?:api|apis)/(?P<api>v1|[a-z.]+/v[a-z0-9]+)(?:/namespaces/(?P<namespace>[^/]+))?/(?P<resource>[a-z]+)"
    r"(?:/(?P<name>[^/]+))?(?:/(?P<part>status))?"
)
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_MAX_JOB_NAME = 63
_SCHEMA: Object = crd.definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
_FIXED = ("name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "generation")
"""What of an object's metadata no write changes."""


class _Place(NamedTuple):
    resource: str
    namespace: str
    name: str
    part: str

    @property
    def key(self) -> tuple[str, str]:
        return self.namespace, self.name

    @property
    def what(self) -> str:
        return f"{KINDS[self.resource].api} {self.resource} {self.namespace}/{self.name}"


class MemoryApi:
    """Objects by resource, namespace and name, with what an API server holds of each write.

    Attributes:
        objects: All objects, by resource and then by (namespace, name).
        namespaces: Those that are there; nothing is created elsewhere.
        accounts: ServiceAccounts that may create Jobs, by name, in every namespace.
        refusals: Status and message with which the next requests of a (method, resource) are refused.
        watchers: Are given each object that changed, in order.
    """

    def __init__(self, *namespaces: str) -> None:
        self.objects: dict[str, dict[tuple[str, str], Object]] = {resource: {} for resource in KINDS}
        self.namespaces = set(namespaces)
        self.accounts = {"default"}
        self.refusals: dict[tuple[str, str], tuple[int, str]] = {}
        self.watchers: list[Watcher] = []
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()

    def call(
        self, method: str, path: str, *, body: Any, headers: Mapping[str, str], query: Sequence[tuple[str, str]]
    ) -> Object:
        """Answer one request. Raises `ApiException` where a real one refuses it."""
        place = _place(path)
        sent = _copy(body)
        if refusal := self.refusals.get((method, place.resource)):
            raise _refusal(*refusal)
        with self._lock:
            if method == "POST":
                answer = self._create(place, sent, headers.get("Impersonate-User", ""))
            elif method == "GET":
                answer = self._found(place) if place.name else self._list(place, headers, dict(query))
            elif method == "DELETE":
                answer = self._delete_all(place, sent or {}, dict(query))
            else:
                answer = self._patched(place, sent, headers["Content-Type"])
            return _copy(answer)

    def collect_garbage(self) -> None:
        """Delete objects whose owners are all gone, as the garbage collector of a cluster does."""
        while True:
            there = {item["metadata"]["uid"] for mine in self.objects.values() for item in mine.values()}
            left = [
                _Place(resource, *key, "")
                for resource, mine in self.objects.items()
                for key, item in mine.items()
                if (owners := item["metadata"].get("ownerReferences"))
                and there.isdisjoint(owner["uid"] for owner in owners)
                and not item["metadata"].get("deletionTimestamp")
            ]
            for place in left:
                self._delete(place, {"propagationPolicy": "Background"})
            if not left:
                return

    # --- reading ---

    def _found(self, place: _Place) -> Object:
        found = self.objects[place.resource].get(place.key)
        if found is None:
            raise _refusal(404, f"{place.what} not found")
        return found

    def _selected(self, place: _Place, query: Mapping[str, str]) -> list[Object]:
        labels = dict(part.split("=", 1) for part in query.get("labelSelector", "").split(",") if part)
        fields = dict(part.split("=", 1) for part in query.get("fieldSelector", "").split(",") if part)
        return [
            item
            for (namespace, _), item in sorted(self.objects[place.resource].items())
            if place.namespace in {"", namespace}
            and labels.items() <= (item["metadata"].get("labels") or {}).items()
            and all(_field(item, name) == value for name, value in fields.items())
        ]

    def _list(self, place: _Place, headers: Mapping[str, str], query: Mapping[str, str]) -> Object:
        items = self._selected(place, query)
        start = int(query.get("continue", 0))
        end = start + int(query.get("limit", len(items) or 1))
        metadata = {"resourceVersion": str(next(self._numbers))}
        if end < len(items):
            metadata["continue"] = str(end)
        if "as=PartialObjectMetadataList" in headers.get("Accept", ""):
            items = [{"metadata": item["metadata"]} for item in items]
        return {"items": items[start:end], "metadata": metadata}

    # --- writing ---

    def _create(self, place: _Place, sent: Object, user: str) -> Object:
        account = user.rpartition(":")[2]
        if user and account not in self.accounts:
            raise _refusal(403, f'{place.what} is forbidden: User "{user}" cannot create resource "{place.resource}"')
        if place.namespace not in self.namespaces:
            raise _refusal(404, f"namespaces {place.namespace!r} not found")
        kind, metadata = KINDS[place.resource], sent["metadata"]
        if (problem := _problem(place, sent)) or metadata.get("namespace", place.namespace) != place.namespace:
            raise _refusal(422 if problem else 400, problem or "the namespace of the provided object does not match")
        place = place._replace(name=metadata["name"])
        if place.key in self.objects[place.resource]:
            raise _refusal(409, f"{place.what} already exists")
        uid = f"uid-{next(self._numbers)}"
        made = {
            **sent,
            "apiVersion": kind.api,
            "kind": kind.name,
            "metadata": {
                **metadata,
                "namespace": place.namespace,
                "uid": uid,
                "creationTimestamp": _now(),
                **({"generation": 1} if kind.counts else {}),
            },
        }
        if kind.counts:
            made.pop("status", None)
        made = _as_the_crd_has_it(place, made)
        if kind.name == "Job":
            _tie_pods(made)
        return self._put(place, made)

    def _patched(self, place: _Place, sent: Any, how: str) -> Object:
        if how == "application/apply-patch+yaml" and place.key not in self.objects[place.resource]:
            return self._create(place, sent, "")
        old = self._found(place)
        new = _copy(old)
        if how == "application/json-patch+json":
            for operation in sent:
                _operate(new, operation)
        elif how == "application/merge-patch+json":
            new = _merged(new, sent)
        else:  # one applier, whose list is the whole spec
            new = {**new, "spec": sent["spec"], "metadata": {**new["metadata"], **sent["metadata"]}}
        return self._update(place, old, new)

    def _update(self, place: _Place, old: Object, new: Object) -> Object:
        before, after = old["metadata"], new["metadata"]
        if after.get("resourceVersion") != before["resourceVersion"]:
            raise _refusal(409, f"Operation cannot be fulfilled on {place.what}: the object has been modified")
        kept = {name: before[name] for name in _FIXED if name in before}
        if place.part == "status":
            new = _as_the_crd_has_it(place, {**old, "status": new.get("status")})
            if problem := _status_problem(place, new["status"]):
                raise _refusal(422, problem)
        else:
            new = {name: value for name, value in new.items() if name != "status"} | {"metadata": {**after, **kept}}
            if "status" in old:
                new["status"] = old["status"]
            new = _as_the_crd_has_it(place, new)
            if problem := _new_finalizer(before, after):
                raise _refusal(422, problem)
            if KINDS[place.resource].counts and new.get("spec") != old.get("spec"):
                new["metadata"]["generation"] += 1
            if not new["metadata"].get("finalizers"):
                new["metadata"].pop("finalizers", None)
        if new == old:
            return old
        if new["metadata"].get("deletionTimestamp") and not new["metadata"].get("finalizers"):
            return self._remove(place, new)
        return self._put(place, new)

    def _delete_all(self, place: _Place, options: Object, query: Mapping[str, str]) -> Object:
        if place.name:
            return self._delete(place, options)
        for item in self._selected(place, query):
            self._delete(place._replace(name=item["metadata"]["name"]), options)
        return {"kind": "Status", "status": "Success"}

    def _delete(self, place: _Place, options: Object) -> Object:
        found = self._found(place)
        if place.resource == "jobs" and options.get("propagationPolicy") != "Background":
            self._orphan(found["metadata"]["uid"])  # what this version of Jobs' API does by default
        if not found["metadata"].get("finalizers"):
            return self._remove(place, found)
        if found["metadata"].get("deletionTimestamp"):
            return found
        metadata = {**found["metadata"], "deletionTimestamp": _now(), "deletionGracePeriodSeconds": 0}
        if "generation" in metadata:
            metadata["generation"] += 1
        return self._put(place, {**found, "metadata": metadata})

    def _orphan(self, uid: str) -> None:
        for resource, mine in self.objects.items():
            for key, item in list(mine.items()):
                owners = item["metadata"].get("ownerReferences", ())
                left = [owner for owner in owners if owner["uid"] != uid]
                if len(left) < len(owners):
                    metadata = {**item["metadata"], "ownerReferences": left}
                    self._put(_Place(resource, *key, ""), {**item, "metadata": metadata})

    def _put(self, place: _Place, body: Object) -> Object:
        shown = {**body, "metadata": {**body["metadata"], "resourceVersion": str(next(self._numbers))}}
        self.objects[place.resource][place.key] = shown
        self._tell(place, shown, gone=False)
        return shown

    def _remove(self, place: _Place, body: Object) -> Object:
        del self.objects[place.resource][place.key]
        self._tell(place, body, gone=True)
        return body

    def _tell(self, place: _Place, body: Object, *, gone: bool) -> None:
        for watcher in self.watchers:
            watcher(KINDS[place.resource].name, _copy(body), gone)


def _copy(body: Any) -> Any:
    return json.loads(json.dumps(body))


def _now() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _place(path: str) -> _Place:
    found = _PATH.fullmatch(path)
    if found is None or found["resource"] not in KINDS or KINDS[found["resource"]].api != found["api"]:
        raise _refusal(404, "the server could not find the requested resource")
    return _Place(found["resource"], found["namespace"] or "", found["name"] or "", found["part"] or "")


def _refusal(status: int, message: str) -> ApiException:
    return ApiException(status=status, reason="Refused", body=json.dumps({"message": message}))  # type: ignore[no-untyped-call] # untyped in the client


def _field(body: Any, name: str) -> Any:
    for part in name.split("."):
        body = (body or {}).get(part)
    return body


def _problem(place: _Place, sent: Object) -> str:
    """Say why an object is not valid, in the few ways that tests need."""
    name = str(sent["metadata"].get("name", ""))
    too_long = place.resource == "jobs" and len(name) > _MAX_JOB_NAME
    if too_long or not _NAME.fullmatch(name):
        return f"metadata.name: Invalid value: {name!r}"
    if place.resource == "jobs":
        pod = sent.get("spec", {}).get("template", {}).get("spec", {})
        if not pod.get("containers"):
            return "spec.template.spec.containers: Required value"
        if pod.get("restartPolicy") not in {"Never", "OnFailure"}:
            return 'spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"'
    return ""


def _as_the_crd_has_it(place: _Place, body: Object) -> Object:
    """Return a DagBundle with the CRD's defaults, and without fields of its status that the CRD does not have."""
    if place.resource != "dagbundles":
        return body
    filled: Object = _filled(body, _SCHEMA)
    known = _SCHEMA["properties"]["status"]["properties"]
    filled["status"] = {name: value for name, value in filled["status"].items() if name in known}
    return filled


def _filled(value: Any, schema: Mapping[str, Any]) -> Any:
    """Return a value with the defaults of its schema."""
    if isinstance(value, list):
        return [_filled(item, schema.get("items", {})) for item in value]
    if not isinstance(value, dict):
        return value
    properties = schema.get("properties", {})
    missing = {name: part["default"] for name, part in properties.items() if name not in value and "default" in part}
    return {name: _filled(item, properties.get(name, {})) for name, item in {**value, **_copy(missing)}.items()}


def _status_problem(place: _Place, status: Any) -> str:
    """Say why the CRD refuses a status; the CRD is made of this model."""
    if place.resource != "dagbundles":
        return ""
    try:
        base.validate(status_models.Status, status, what="status")
    except errors.ResourceError as error:
        return error.message
    return ""


def _new_finalizer(before: Object, after: Object) -> str:
    new = set(after.get("finalizers") or ()) - set(before.get("finalizers") or ())
    if not before.get("deletionTimestamp") or not new:
        return ""
    return "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted"


def _tie_pods(job: Object) -> None:
    """Label a Job's pods, by which they are found."""
    metadata = job["spec"]["template"].setdefault("metadata", {})
    mine = {"batch.kubernetes.io/job-name": job["metadata"]["name"]}
    metadata["labels"] = {**(metadata.get("labels") or {}), **mine}


def _steps(path: str) -> Iterator[str]:
    return (part.replace("~1", "/").replace("~0", "~") for part in path.split("/")[1:])


def _operate(body: Object, operation: Mapping[str, Any]) -> None:
    """Carry out one operation of a JSON patch."""
    *above, last = _steps(operation["path"])
    target: Any = body
    for part in above:
        target = target.get(part)
        if target is None:
            raise _refusal(422, f"the path {operation['path']} is not there")
    if operation["op"] == "test":
        if target.get(last) != operation["value"]:
            raise _refusal(422, f"the value at {operation['path']} is another one")
    elif operation["op"] == "remove":
        target.pop(last, None)
    else:
        target[last] = operation["value"]


def _merged(body: Any, patch: Any) -> Any:
    """Carry out a JSON merge patch."""
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(body) if isinstance(body, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merged(merged.get(name), value)
    return merged
