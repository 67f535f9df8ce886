"""Settings, reasons and metrics, and that docs/server.md has all of them."""

from __future__ import annotations

import dataclasses
import pathlib
import re

import pytest

from dagbundle import errors
from dagbundle.server import problems, settings
from dagbundle.server.metrics import Metrics
from dagbundle.server.serving import Address

DOCUMENT = (pathlib.Path(__file__).parents[3] / "docs" / "server.md").read_text()


def test_settings_come_from_the_environment_with_the_type_of_their_default() -> None:
    found = settings.read({
        "DAGBUNDLE_SERVER_AUDIENCE": "other", "DAGBUNDLE_SERVER_REPORTS": "3", "DAGBUNDLE_SERVER_IDLE_SECONDS": "0.5",
        "DAGBUNDLE_SERVER_URL": "https://parsers.read.it", "DAGBUNDLE_SERVER_WORKERS": "",
    })  # fmt: skip
    assert found == dataclasses.replace(settings.Settings(), audience="other", reports=3, idle_seconds=0.5)


@pytest.mark.parametrize("text", ["many", "0", "-1", "1.5", "inf", "nan"])
def test_settings_that_cannot_be_are_named(text: str) -> None:
    with pytest.raises(errors.UsageError, match="DAGBUNDLE_SERVER_REPORTS"):
        settings.read({"DAGBUNDLE_SERVER_REPORTS": text})
    if text != "1.5":
        with pytest.raises(errors.UsageError, match="DAGBUNDLE_SERVER_IDLE_SECONDS"):
            settings.read({"DAGBUNDLE_SERVER_IDLE_SECONDS": text})


def test_every_setting_is_documented_with_its_default() -> None:
    documented = dict(re.findall(r"(?m)^\| `DAGBUNDLE_SERVER_(\w+)` \| ([^|]+) \|", DOCUMENT))
    fields = dataclasses.fields(settings.Settings)[1:]  # the cluster's name is in docs/operations.md
    assert list(documented) == [field.name.upper() for field in fields]
    for field in fields:
        text = documented[field.name.upper()].strip()
        if isinstance(field.default, str):
            assert text == f"`{field.default}`"
        else:
            number, _, unit = text.partition(" ")
            factor = {"": 1, "s": 1, "h": 3600, "MiB": 1 << 20, "GiB": 1 << 30}[unit]
            assert float(number) * factor == field.default, field.name


def test_every_reason_is_documented_with_its_status() -> None:
    documented = {name: int(status) for name, status in re.findall(r"(?m)^\| `([A-Z]\w+)` \| (\d{3}) \|", DOCUMENT)}
    assert documented == {name: reason.status for name, reason in problems.REASONS.items()}


def test_every_metric_is_documented() -> None:
    shown = {line.split()[2] for line in Metrics().text().decode().splitlines() if line.startswith("# TYPE")}
    ours = {name for name in shown if not name.endswith("_created")}
    assert set(re.findall(r"`(dagbundle_server_\w+)`", DOCUMENT)) == ours


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errors.StoreUnavailableError("x"), "StoreUnavailable"),
        (errors.SchemaError("x"), "StoreUnavailable"),
        (errors.TargetError("x"), "ValueUnavailable"),
        (errors.SupersededError("x"), "RunOver"),
        (errors.NotFoundError("x"), "RunOver"),
        (errors.FencedError("x"), "Fenced"),
        (errors.RunClosedError("x"), "RunClosed"),
        (errors.ConflictError("x"), "RunOver"),
        (errors.ProtocolError("x"), "BadReport"),
        (errors.ContentError("x"), "BadReport"),
        (errors.StoreError("x"), "InternalError"),
        (errors.CallerError("NoPod", "x"), "NoPod"),
    ],
)
def test_every_error_has_a_reason(error: errors.DagBundleError, reason: str) -> None:
    found = problems.refusal(error)
    assert found.reason == reason
    answer = problems.response(found.told, problems.detail_of(found))
    assert answer.status_code == problems.REASONS[reason].status
    assert answer.media_type == "application/problem+json"


def test_what_is_none_of_the_callers_business_is_not_told() -> None:
    foreign = errors.CallerError("OtherNamespace", "the run is of namespace team-ops", told="UnknownRun")
    unknown = errors.CallerError("UnknownRun", "There is no run x")
    assert [problems.detail_of(error) for error in (foreign, unknown)] == ["", ""]
    assert problems.detail_of(problems.refusal(errors.StoreError("password=x"))) == ""


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("", False), ("0.0.0.0", False), ("example.org", False)],  # noqa: S104 - not bound
)
def test_only_this_machines_addresses_are_local(host: str, local: bool) -> None:
    assert Address(host, 0).is_local is local


def test_an_address_that_is_taken_or_nobodys_is_named() -> None:
    with Address("127.0.0.1", 0).listen() as taken, pytest.raises(errors.UsageError, match="cannot listen at 127"):
        Address("127.0.0.1", taken.getsockname()[1]).listen()
    with pytest.raises(errors.UsageError, match="cannot listen"):
        Address("192.0.2.1", 0).listen()
    with Address("", 0).listen() as everywhere:
        assert everywhere.getsockname()[1] > 0
