"""The Lease that decides which replica leads."""

from __future__ import annotations

import logging

from kubernetes.aio import client
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.leaderelection.leaderelectionrecord import LeaderElectionRecord
from kubernetes.aio.leaderelection.resourcelock.leaselock import LeaseLock

_LOG = logging.getLogger(__name__)


class Lease(LeaseLock):
    """The client's own lock, whose `create` of version 37.0.2 passes a value that the client then refuses."""

    async def create(self, name: str, namespace: str, election_record: LeaderElectionRecord) -> bool:
        """Create the Lease; False when another replica was faster, or it may not be created."""
        body = client.V1Lease(metadata=client.V1ObjectMeta(name=name), spec=self.update_lease(election_record))
        try:
            await self.api_instance.create_namespaced_lease(namespace, body)
        except ApiException as error:
            _LOG.warning("the Lease cannot be created", extra={"lease": name, "error": str(error.reason)})
            return False
        return True
