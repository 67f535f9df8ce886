"""The Lease that decides which replica leads."""

from __future__ import annotations

import logging

from kubernetes.aio import client
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.leaderelection.leaderelectionrecord import LeaderElectionRecord
from kubernetes.aio.leaderelection.resourcelock.leaselock import LeaseLock

_LOG = logging.getLogger(__name__)


class Lease(LeaseLock):
    """The client's own lock, which can also be given back.

    Its `create` is here because that of version 37.0.2 passes a value that the client then refuses.
    """

    async def create(self, name: str, namespace: str, election_record: LeaderElectionRecord) -> bool:
        """Create the Lease; False when another replica was faster, or it may not be created."""
        body = client.V1Lease(metadata=client.V1ObjectMeta(name=name), spec=self.update_lease(election_record))
        try:
            await self.api_instance.create_namespaced_lease(namespace, body)
        except ApiException as error:
            _LOG.warning("the Lease cannot be created", extra={"lease": name, "error": str(error.reason)})
            return False
        return True

    async def release(self) -> None:
        """Give the Lease back, so that the next replica need not wait until it runs out."""
        try:
            lease = await self.api_instance.read_namespaced_lease(self.name, self.namespace)
            if lease.spec is None or lease.spec.holder_identity != self.identity:
                return
            lease.spec.holder_identity = None
            await self.api_instance.replace_namespaced_lease(self.name, self.namespace, lease)
        except ApiException as error:  # it runs out by itself
            _LOG.warning("the Lease cannot be given back", extra={"lease": self.name, "error": str(error.reason)})
