"""What Prometheus is told. No label is a tenant's word: neither namespaces nor runs, whose number nobody bounds."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0, 300.0, 1800.0)


class Metrics:
    """One server's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "dagbundle_server_requests_total",
            "Requests by route, method and status.",
            ["route", "method", "status"],
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "dagbundle_server_request_seconds",
            "How long requests took, reports included.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.refusals = Counter(
            "dagbundle_server_refusals_total",
            "Requests that were refused, by the real reason.",
            ["reason"],
            registry=self.registry,
        )
        self.reports = Counter(
            "dagbundle_server_reports_total",
            "Reports by how they ended: Closed, Failed, or the reason why they were refused.",
            ["result"],
            registry=self.registry,
        )
        self.report_seconds = Histogram(
            "dagbundle_server_report_seconds",
            "How long reports took, which is about as long as their runs parsed.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.report_bytes = Counter(
            "dagbundle_server_report_bytes_total", "Bytes of reports, as they were sent.", registry=self.registry
        )
        self.files = Counter(
            "dagbundle_server_files_total",
            "Files that were reported, by whether they were parsed or unchanged.",
            ["status"],
            registry=self.registry,
        )
        self.reviews = Counter(
            "dagbundle_server_token_reviews_total",
            "Questions about tokens by answer: accepted, refused, unavailable, remembered.",
            ["answer"],
            registry=self.registry,
        )
        self.lookups = Counter(
            "dagbundle_server_lookups_total",
            "Lookups of values by kind and result: found, missing, refused, failed.",
            ["kind", "result"],
            registry=self.registry,
        )
        for kind in ("variable", "connection"):  # there from the start, so that the first of each shows in a rate
            for result in ("found", "missing", "refused", "failed"):
                self.lookups.labels(kind, result)
        self.open_reports = Gauge(
            "dagbundle_server_reports_open", "Reports that are being taken now.", registry=self.registry
        )
        self.connections = Gauge(
            "dagbundle_server_connections", "Connections of parsers that are open now.", registry=self.registry
        )
        self.held_bytes = Gauge(
            "dagbundle_server_held_bytes", "Bytes of reports that are in memory now.", registry=self.registry
        )

    def text(self) -> bytes:
        """Return all of them as Prometheus reads them."""
        return generate_latest(self.registry)
