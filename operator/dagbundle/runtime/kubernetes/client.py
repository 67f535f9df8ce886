"""Talks to the API server, with errors in this project's words. One object for all threads.

What acts in a tenant's namespace is done as the tenant's own account (impersonation), one header per call, so that the
API server decides and audits as if the account had done it. What the operator may do itself is in docs/security.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from dagbundle import errors
from dagbundle.resources import bundle as bundle_models
from dagbundle.runtime.kubernetes import jobs

Object = dict[str, Any]

_SECONDS = 30.0
"""How long one call may take."""
_METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_BUNDLES = f"/apis/{bundle_models.API_GROUP}/{bundle_models.API_VERSION}/namespaces"


def connect() -> client.ApiClient:
    """Return a client of the cluster that this runs in, or of the current kubeconfig.

    Raises:
        ClusterError: There is neither, or the kubeconfig cannot be used.
    """
    settings = client.Configuration()
    try:
        config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call] # untyped in the client
    except config.ConfigException:
        try:
            config.load_kube_config(client_configuration=settings)  # type: ignore[no-untyped-call] # likewise
        except Exception as error:  # the client lets through whatever a broken file raises: TypeError, YAMLError, …
            raise errors.ClusterError(
                f"no cluster is configured: {' '.join(str(error).split())}",
                hint="set KUBECONFIG to a file whose current context is the cluster's, or run it in a pod",
            ) from error
    settings.connection_pool_maxsize = 32
    return client.ApiClient(settings)


class Cluster:
    """The calls that a controller makes.

    Every method raises `ClusterError` where the API server cannot be reached or says no, besides what it names itself.
    """

    def __init__(self, api: client.ApiClient | None = None) -> None:
        self._api = api or connect()

    def create_job(self, manifest: jobs.Manifest, account: str) -> str:
        """Create a Job as a ServiceAccount of its namespace, and return its UID; find it if it is there already.

        Raises:
            AccessDeniedError: The account may not create Jobs, or the operator may not act as the account.
            RefusedError: The Job is refused: a quota, admission, or its pod template is not valid.
            JobConflictError: Another Job has its name.
        """
        namespace = manifest["metadata"]["namespace"]
        as_account = {"Impersonate-User": f"system:serviceaccount:{namespace}:{account}"}
        path = f"/apis/batch/v1/namespaces/{namespace}/jobs"
        try:
            made = self.call("POST", path, body=manifest, headers=as_account)
        except ApiException as error:
            if error.status == 409:  # noqa: PLR2004 - HTTP
                return self._find(manifest)
            raise _job_error(error, namespace, account) from error
        return str(made["metadata"]["uid"])

    def _find(self, manifest: jobs.Manifest) -> str:
        """Return the UID of the Job that has the manifest's name, if it is of the same run."""
        namespace, name = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
        found = self.job(namespace, name)
        if found is None:
            raise errors.StaleError(f"Job {namespace}/{name} was there and is gone: it is made at the next look")
        metadata = found["metadata"]
        ours = manifest["metadata"]
        same = metadata.get("annotations", {}).get(jobs.RUN_ANNOTATION) == ours["annotations"][
            jobs.RUN_ANNOTATION
        ] and [owner.get("uid") for owner in metadata.get("ownerReferences", ())] == [
            owner["uid"] for owner in ours["ownerReferences"]
        ]
        if not same:
            raise errors.JobConflictError(
                f"Job {namespace}/{name} is there already and is not ours: it is left alone",
                hint=f"delete it: kubectl delete job -n {namespace} {name}",
            )
        if metadata.get("deletionTimestamp"):
            raise errors.StaleError(f"Job {namespace}/{name} is being deleted: it is made again when it is gone")
        return str(metadata["uid"])

    def job(self, namespace: str, name: str) -> Object | None:
        """Return a Job; None where there is none."""
        return self._get(f"/apis/batch/v1/namespaces/{namespace}/jobs/{name}")

    def delete_job(self, namespace: str, name: str) -> None:
        """Delete a Job and its pods; it may be gone already."""
        path = f"/apis/batch/v1/namespaces/{namespace}/jobs/{name}"
        try:
            self.call("DELETE", path, body={"propagationPolicy": "Background"})
        except ApiException as error:
            if error.status != 404:  # noqa: PLR2004 - HTTP
                raise _error(error, f"Job {namespace}/{name} cannot be deleted") from error

    def job_events(self, namespace: str, uid: str) -> Sequence[Object]:
        """Return the Events about a Job, oldest first; none where they may not be read."""
        try:
            found = self.call(
                "GET",
                f"/api/v1/namespaces/{namespace}/events",
                query=[("fieldSelector", f"involvedObject.uid={uid}"), ("limit", "50")],
            )
        except ApiException as error:
            if error.status == 403:  # noqa: PLR2004 - HTTP; they only explain
                return ()
            raise _error(error, f"Events of namespace {namespace} cannot be listed") from error
        return sorted(found.get("items", ()), key=lambda event: str(event.get("lastTimestamp") or ""))

    def bundle(self, namespace: str, name: str) -> Object | None:
        """Return a DagBundle as it is now; None where there is none."""
        return self._get(f"{_BUNDLES}/{namespace}/dagbundles/{name}")

    def bundle_versions(self) -> dict[tuple[str, str], str]:
        """Return the resourceVersion of every DagBundle of the cluster, by (namespace, name)."""
        versions: dict[tuple[str, str], str] = {}
        query = [("limit", "500")]
        path = f"/apis/{bundle_models.API_GROUP}/{bundle_models.API_VERSION}/dagbundles"
        while True:
            try:
                page = self.call("GET", path, query=query, headers={"Accept": _METADATA_ONLY})
            except ApiException as error:
                raise _error(error, "DagBundles cannot be listed") from error
            for item in page["items"] or ():  # null, where there is none
                metadata = item["metadata"]
                versions[metadata["namespace"], metadata["name"]] = metadata["resourceVersion"]
            following = page["metadata"].get("continue")
            if not following:
                return versions
            query = [("limit", "500"), ("continue", following)]

    def workload(self, kind: str, namespace: str, name: str) -> Object | None:
        """Return a Deployment or StatefulSet; None where there is none."""
        return self._get(f"/apis/apps/v1/namespaces/{namespace}/{kind.lower()}s/{name}")

    def write_status(self, body: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        """Replace a DagBundle's status, if it is still the object that was read.

        Raises:
            StaleError: It changed since, or is gone.
        """
        self._patch(body, [{"op": "add", "path": "/status", "value": status}], "/status")

    def write_finalizers(self, body: Mapping[str, Any], finalizers: Sequence[str]) -> None:
        """Replace a DagBundle's finalizers, if it is still the object that was read. Raises `StaleError`."""
        self._patch(body, [{"op": "add", "path": "/metadata/finalizers", "value": list(finalizers)}], "")

    def _patch(self, body: Mapping[str, Any], operations: list[Object], suffix: str) -> None:
        metadata = body["metadata"]
        path = f"{_BUNDLES}/{metadata['namespace']}/dagbundles/{metadata['name']}{suffix}"
        test = {"op": "test", "path": "/metadata/resourceVersion", "value": metadata["resourceVersion"]}
        try:
            self.call("PATCH", path, body=[test, *operations], headers={"Content-Type": "application/json-patch+json"})
        except ApiException as error:
            if error.status in {404, 409, 422}:  # gone, or the test failed
                raise errors.StaleError(f"DagBundle {metadata['namespace']}/{metadata['name']} changed") from error
            raise _error(error, f"DagBundle {metadata['namespace']}/{metadata['name']} cannot be written") from error

    def post_event(self, namespace: str, event: Object) -> None:
        """Post an Event; one that cannot be posted is lost, as Events may be."""
        try:
            self.call("POST", f"/api/v1/namespaces/{namespace}/events", body=event)
        except ApiException as error:
            if error.status not in {403, 404}:  # the namespace is going
                raise _error(error, f"an Event cannot be posted in namespace {namespace}") from error

    def _get(self, path: str) -> Object | None:
        try:
            return self.call("GET", path)
        except ApiException as error:
            if error.status == 404:  # noqa: PLR2004 - HTTP
                return None
            raise _error(error, f"GET {path} failed") from error

    def call(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        query: Sequence[tuple[str, str]] = (),
    ) -> Object:
        """Call the API server, and return the object that it answers with.

        Raises:
            ClusterError: It cannot be reached.
            ApiException: It says no.
        """
        sent = {"Accept": "application/json", "Content-Type": "application/json", **(headers or {})}
        request = self._api.param_serialize(
            method, path, query_params=list(query), header_params=sent, body=body, auth_settings=["BearerToken"]
        )
        try:
            answer = self._api.call_api(*request, _request_timeout=_SECONDS)
            data = answer.read()  # type: ignore[no-untyped-call] # likewise
        except urllib3.exceptions.HTTPError as error:
            raise errors.ClusterError(f"the API server cannot be reached: {error}") from error
        if not 200 <= answer.status <= 299:  # noqa: PLR2004 - HTTP
            raise ApiException(status=answer.status, reason=answer.reason, body=data.decode("utf-8", "replace"))
        decoded: Object = json.loads(data)
        return decoded


def _message(error: ApiException) -> str:
    try:
        return str(json.loads(error.body or "{}")["message"])
    except (ValueError, KeyError, TypeError):
        return str(error.reason)


def _error(error: ApiException, what: str) -> errors.ClusterError:
    return errors.ClusterError(f"{what}: {error.status} {_message(error)}")


def _job_error(error: ApiException, namespace: str, account: str) -> errors.ClusterError:
    """Say what a refused Job means, and what to do."""
    message = _message(error)
    if error.status == 403 and "cannot impersonate" in message:  # noqa: PLR2004 - HTTP
        return errors.AccessDeniedError(
            f"the operator may not act as ServiceAccount {namespace}/{account}: {message}",
            hint=f"the platform team enables the namespace by listing {namespace!r} in the chart's tenants",
        )
    if error.status == 403 and "cannot create resource" in message:  # noqa: PLR2004 - HTTP
        return errors.AccessDeniedError(
            f"ServiceAccount {namespace}/{account} may not create Jobs: {message}", hint=role_hint(namespace, account)
        )
    if error.status in {400, 403, 422}:
        return errors.RefusedError(f"the parser's Job was refused: {message}")
    if error.status == 404:  # noqa: PLR2004 - HTTP
        return errors.RefusedError(f"the parser's Job cannot be created, the namespace is gone: {message}")
    return _error(error, f"the parser's Job cannot be created in namespace {namespace}")


def role_hint(namespace: str, account: str) -> str:
    """Return the commands that give an account the one right it needs."""
    return (
        "give it the right with: "
        f"kubectl create role dagbundle-parser-{account} -n {namespace} --verb=create --resource=jobs.batch && "
        f"kubectl create rolebinding dagbundle-parser-{account} -n {namespace} --role=dagbundle-parser-{account} "
        f"--serviceaccount={namespace}:{account}"
    )
