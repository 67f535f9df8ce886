"""What one team tries against another, or against the operator, is denied, and it is told why."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from e2e import dags, parsers
from e2e.cluster import Cluster, ClusterError
from e2e.installation import NAMESPACE, Installation
from e2e.parsers import Server, token_of
from e2e.tenants import Bundle, Team, manifest

Images = Callable[..., str]
NEVER = "1h"
PATIENT = {"fileTimeout": "10m"}
INGEST = {"path": "ingest", "serviceAccountName": "ingest-parser"}
REPORTING = {"path": "reporting", "serviceAccountName": "reporting-parser"}


@pytest.fixture(scope="session")
def image(tenant_image: Images) -> str:
    return tenant_image({"a.py": dags.dag("a.plain")}, tag="plain")


@pytest.fixture(scope="session")
def slow_image(tenant_image: Images) -> str:
    """An image that is still being parsed when a test looks."""
    files = {"ingest/slow.py": dags.slow("slow", 500), "reporting/quick.py": dags.dag("quick")}
    return tenant_image(files, tag="very-slow")


@pytest.fixture(scope="module")
def server(operator: Installation) -> Iterator[Server]:
    """The server, as pods see it."""
    with parsers.reached(operator) as reached:
        yield reached


def parsing(team: Team, name: str, image: str) -> tuple[Bundle, Any]:
    """Return a bundle and the pod that is parsing its subdir `ingest`."""
    bundle = team.apply(name, image, [INGEST, REPORTING], parser=PATIENT, retryInterval=NEVER)
    pod = bundle.until_pod(
        lambda seen: (
            seen["metadata"]["annotations"]["dagbundle.dev/subdir"] == "ingest" and seen["status"]["phase"] == "Running"
        )
    )
    return bundle, pod


@pytest.fixture(scope="module")
def team(operator: Installation) -> Iterator[Team]:
    """A team whose bundle is parsed all the time."""
    team = operator.team("team-long")
    yield team
    team.kubectl.text("delete", "dagbundles,pods", "--all", "--timeout=120s")


@pytest.fixture(scope="module")
def pod(team: Team, slow_image: str) -> Any:
    """The pod of a run that is open: what intruders are after."""
    return parsing(team, "wanted", slow_image)[1]


def refused_for_its_key(server: Server, run: str, token: str) -> bool:
    """Wait until the pod's own parser has asked for its run, and tell whether another one is refused from then on."""
    end = time.monotonic() + 60
    while (answer := server.run(run, token)).status == 200 and time.monotonic() < end:
        time.sleep(0.5)
    return (answer.status, answer.reason) == (403, "KeyRefused")


def test_who_takes_the_token_of_a_runs_own_pod_is_not_let_in(server: Server, team: Team, pod: Any) -> None:
    assert refused_for_its_key(server, parsers.run_of(pod), token_of(team.kubectl, pod))


def test_without_a_token_nothing_is_told(server: Server, pod: Any) -> None:
    answer = server.run(parsers.run_of(pod))
    assert (answer.status, answer.reason) == (401, "TokenMissing")


def test_another_team_cannot_even_learn_that_a_run_exists(server: Server, team_b: Team, pod: Any, image: str) -> None:
    stranger = parsers.idle_pod(team_b.kubectl, "stranger", image, "parser")
    token = token_of(team_b.kubectl, stranger)
    theirs, nobodys = server.run(parsers.run_of(pod), token), server.run("0" * 40, token)
    team_b.kubectl.text("delete", "pod/stranger", "--wait=false")
    assert (theirs.status, theirs.reason) == (404, "UnknownRun")
    assert theirs.text == nobodys.text


def test_a_token_of_another_account_is_refused(server: Server, team: Team, pod: Any, image: str) -> None:
    other = parsers.idle_pod(team.kubectl, "other-account", image, "reporting-parser")
    answer = server.run(parsers.run_of(pod), token_of(team.kubectl, other))
    assert (answer.status, answer.reason) == (403, "WrongAccount")


def test_a_pod_of_the_account_that_is_not_of_the_job_is_refused(
    server: Server, team: Team, pod: Any, image: str
) -> None:
    other = parsers.idle_pod(team.kubectl, "other-pod", image, "ingest-parser")
    answer = server.run(parsers.run_of(pod), token_of(team.kubectl, other))
    assert (answer.status, answer.reason) == (403, "WrongPod")


def test_a_token_for_another_audience_is_refused(server: Server, team: Team, pod: Any) -> None:
    token = token_of(team.kubectl, pod, audience="https://kubernetes.default.svc")
    answer = server.run(parsers.run_of(pod), token)
    assert (answer.status, answer.reason) == (401, "TokenRefused")


def test_a_token_of_no_pod_is_refused(server: Server, team: Team, pod: Any) -> None:
    answer = server.run(parsers.run_of(pod), token_of(team.kubectl, pod, bound=False))
    assert (answer.status, answer.reason) == (403, "NoPod")


def test_an_expired_token_is_refused(own_cluster: Cluster, server: Server, team: Team, pod: Any) -> None:
    token = parsers.ending(own_cluster, token_of(team.kubectl, pod), -3600)
    answer = server.run(parsers.run_of(pod), token)
    assert (answer.status, answer.reason) == (401, "TokenRefused")


def test_a_token_is_refused_after_its_run_closed(server: Server, team_b: Team, tenant_image: Images) -> None:
    bundle = team_b.apply("closed", tenant_image({"a.py": dags.dag("closed")}, tag="closed"))
    bundle.wait_ready()
    (ended,) = bundle.pods()
    answer = server.run(parsers.run_of(ended), token_of(team_b.kubectl, ended))
    assert answer.status in {403, 409}
    assert answer.reason in {"RunClosed", "RunOver", "NoPod", "KeyRefused"}


def test_a_token_is_refused_as_soon_as_its_pod_is_gone(server: Server, team_b: Team, slow_image: str) -> None:
    bundle, gone = parsing(team_b, "vanishing", slow_image)
    token = token_of(team_b.kubectl, gone)
    assert server.run(parsers.run_of(gone), token).believes_token
    bundle.kubectl.text("delete", "pod", gone["metadata"]["name"], "--force", "--grace-period=0")
    assert server.run(parsers.run_of(gone), token).reason in {"NoPod", "TokenRefused"}


def test_a_report_that_is_forged_with_a_pods_token_is_refused_and_nothing_of_it_counts(
    operator: Installation, server: Server, team_b: Team, slow_image: str
) -> None:
    _, attacker = parsing(team_b, "forging", slow_image)
    run, token = parsers.run_of(attacker), token_of(team_b.kubectl, attacker)
    assert refused_for_its_key(server, run, token)
    opening = {"type": "open", "protocol": 1, "run": run, "attempt": attacker["metadata"]["uid"]}
    opening |= {"parser": {"name": "SinglePass", "version": "1"}, "python": "3.11", "airflow": "3.3.2"}
    opening |= {"fingerprint": "f", "files": 1}
    file = {"type": "file", "seq": 1, "path": "ingest/a.py", "status": "parsed", "dags": [], "errors": []}
    answer = server.report(run, token, [opening, file])
    assert (answer.status, answer.reason) == (403, "KeyRefused")
    assert operator.database.live("team-b", "forging").revision == 0


def test_naming_another_teams_account_gives_no_more_than_a_name(team_a: Team, team_b: Team, image: str) -> None:
    team_b.prepare("parser", "ingest-parser", "reporting-parser", "treasurer")
    bundle = team_a.apply("thief", image, [{"path": ".", "serviceAccountName": "treasurer"}])
    message = bundle.wait_reason("AccessDenied")
    assert "team-a/treasurer" in message
    assert bundle.pods() == []


def test_who_may_not_use_an_account_cannot_name_it_in_a_bundle(team_a: Team, image: str) -> None:
    rbac = "rbac.authorization.k8s.io"
    team_a.kubectl.apply(
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "Role",
            "metadata": {"name": "writer"},
            "rules": [
                {"apiGroups": ["dagbundle.dev"], "resources": ["dagbundles"], "verbs": ["create", "get", "patch"]}
            ],
        },
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "writer"},
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "writer"},
            "subjects": [{"kind": "User", "name": "mallory"}],
        },
    )
    text = json.dumps(manifest("borrowed", image))
    with pytest.raises(ClusterError, match="You may not use the ServiceAccount parser of the namespace team-a"):
        team_a.kubectl.text("apply", "--server-side", "--as=mallory", "--filename=-", stdin=text)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"subdirs": [{"path": ".", "serviceAccountName": "parser", "dagIdPrefix": "b."}]}, "b."),
        ({"bundleName": "legacy-b"}, "legacy-b"),
    ],
    ids=["prefix", "name"],
)
def test_a_spec_that_widens_the_grant_is_refused(team_a: Team, image: str, spec: dict[str, Any], told: str) -> None:
    resource = manifest("greedy", image)
    resource["spec"] |= spec
    team_a.kubectl.apply(resource)
    bundle = team_a.bundle("greedy")
    assert told in bundle.wait_reason("NotGranted")
    assert bundle.jobs() == []


def test_a_dag_id_outside_of_the_grant_is_refused(operator: Installation, team_a: Team, tenant_image: Images) -> None:
    files = {"good.py": dags.dag("a.good"), "bad.py": dags.dag("b.bad")}
    bundle = team_a.apply("mixed", tenant_image(files, tag="mixed"))
    message = bundle.wait_reason("KeptLastGood")
    assert "bad.py" in message
    assert set(operator.database.live("team-a", "mixed").dags) == {"a.good"}


def test_a_dag_id_of_another_team_stays_theirs(
    operator: Installation, team_a: Team, team_b: Team, tenant_image: Images
) -> None:
    ours = team_a.apply("owner", tenant_image({"a.py": dags.dag("a.owned")}, tag="owner"))
    ours.wait_ready()
    theirs = team_b.apply("claimant", tenant_image({"b.py": dags.dag("a.owned", "evil")}, tag="claimant"))
    message = theirs.wait_reason("KeptLastGood")
    assert "team-a/owner" in message
    assert set(operator.database.live("team-a", "owner").dags) == {"a.owned"}
    assert operator.database.live("team-b", "claimant").dags == {}


def test_who_waits_for_a_dag_id_gets_it_when_its_owner_lets_go(
    operator: Installation, team_a: Team, team_b: Team, tenant_image: Images
) -> None:
    ours = team_a.apply("first", tenant_image({"a.py": dags.dag("a.wanted")}, tag="first"))
    ours.wait_ready()
    theirs = team_b.apply("second", tenant_image({"b.py": dags.dag("a.wanted")}, tag="second"))
    theirs.wait_reason("KeptLastGood")
    ours.delete()
    theirs.wait_ready()
    assert set(operator.database.live("team-b", "second").dags) == {"a.wanted"}


def test_a_subdir_that_is_a_link_out_of_the_bundle_is_refused(team_b: Team, tenant_image: Images) -> None:
    linked = tenant_image({"a.py": dags.dag("linked")}, tag="linked", links={"escape": "/etc"})
    subdirs = [{"path": "escape", "serviceAccountName": "parser"}]
    message = team_b.apply("escaping", linked, subdirs, retryInterval=NEVER).wait_reason("RunFailed")
    assert "is a link that leaves the bundle" in message


def test_a_squatted_job_is_left_alone_and_named(operator: Installation, image: str) -> None:
    team = operator.team("team-quota")
    team.kubectl.text("create", "quota", "none", "--hard=count/jobs.batch=0")
    team.kubectl.wait("resourcequota/none", "jsonpath={.status.hard}")
    bundle = team.apply("squatted", image)
    bundle.wait_reason("JobRefused")
    ((name,),) = operator.database.execute(
        "select job.name from dagbundle.job join dagbundle.rollout on rollout.id = job.rollout "
        "join dagbundle.bundle on bundle.id = rollout.bundle_id where bundle.name = 'squatted'"
    )
    team.kubectl.text("delete", "quota", "none")
    team.kubectl.text("create", "job", name, f"--image={image}", "--", "sleep", "infinity")
    uid = team.kubectl("get", "job", name)["metadata"]["uid"]
    team.kubectl.text("label", bundle.what, "look=again")
    message = bundle.wait_reason("JobConflict")
    after = team.kubectl("get", "job", name)["metadata"]["uid"]
    team.kubectl.text("delete", "dagbundle/squatted", f"job/{name}")
    assert name in message
    assert after == uid


def found(operator: Installation, team: Team, tenant_image: Images, probe: str) -> str:
    """Run some code as a DAG file and return what came of it."""
    name = f"probe{abs(hash(probe)) % 10**6}"
    bundle = team.apply(name, tenant_image({"probe.py": dags.probing(name, probe)}, tag=name))
    bundle.wait_ready()
    with operator.database.store() as store:
        return str(store.get_serialized_dag(name)["dag"]["description"])


def test_a_parsers_pod_has_no_token_for_the_api_server(
    operator: Installation, team_b: Team, tenant_image: Images
) -> None:
    probe = "import os\nreturn str(os.path.exists('/var/run/secrets/kubernetes.io'))"
    assert found(operator, team_b, tenant_image, probe) == "False"


@pytest.mark.parametrize("token", ["", "/var/run/secrets/dagbundle/token"], ids=["anonymous", "own token"])
def test_a_parsers_pod_is_refused_by_the_api_server(
    operator: Installation, team_b: Team, tenant_image: Images, token: str
) -> None:
    probe = (
        "import ssl, urllib.request as r\n"
        "address = 'https://kubernetes.default.svc/api/v1/namespaces/team-a/secrets'\n"
        f"token = open({token!r}).read() if {token!r} else ''\n"
        "headers = {'Authorization': f'Bearer {token}'} if token else {}\n"
        "context = ssl._create_unverified_context()\n"
        "return r.urlopen(r.Request(address, headers=headers), context=context, timeout=20).read().decode()"
    )
    assert found(operator, team_b, tenant_image, probe) in {
        "HTTPError: HTTP Error 403: Forbidden",
        "HTTPError: HTTP Error 401: Unauthorized",
    }


def test_a_parsers_pod_cannot_log_in_to_the_database(
    operator: Installation, team_b: Team, tenant_image: Images
) -> None:
    probe = (
        "import psycopg2\n"
        f"psycopg2.connect(host={operator.database.host!r}, user='dagbundle', password='guess', dbname='postgres')\n"
        "return 'in'"
    )
    said = found(operator, team_b, tenant_image, probe)
    assert said.startswith("OperationalError")
    assert "password authentication failed" in said


def test_a_dag_file_sees_nothing_of_the_operator_in_its_environment(
    operator: Installation, team_b: Team, tenant_image: Images
) -> None:
    probe = "import os\nreturn str(sorted(name for name in os.environ if 'DAGBUNDLE' in name))"
    assert found(operator, team_b, tenant_image, probe) == "[]"


@pytest.mark.parametrize(
    ("verb", "what", "namespace"),
    [
        ("get", "secrets", "team-a"),
        ("list", "secrets", NAMESPACE),
        ("create", "serviceaccounts", "team-a"),
        ("create", "roles", "team-a"),
        ("create", "rolebindings", "team-a"),
        ("create", "jobs", "team-a"),
        ("impersonate", "serviceaccounts", "kube-system"),
    ],
)
@pytest.mark.parametrize("account", ["dagbundle-controller", "dagbundle-server"])
def test_the_operators_own_accounts_may_not(
    operator: Installation, account: str, verb: str, what: str, namespace: str
) -> None:
    whose = f"--as=system:serviceaccount:{NAMESPACE}:{account}"
    with pytest.raises(ClusterError):
        operator.kubectl.within(namespace).text("auth", "can-i", verb, what, whose)


def test_who_floods_the_server_is_told_to_wait_and_others_are_served(
    operator: Installation, server: Server, team: Team, pod: Any, image: str
) -> None:
    parsers.idle_pod(team.kubectl, "flooding", image, "parser")
    answers = parsers.flood(operator, team.kubectl, "pod/flooding", 600)
    assert answers == {401, 429}
    assert server.run(parsers.run_of(pod), token_of(team.kubectl, pod)).believes_token
