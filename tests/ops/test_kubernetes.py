"""The Kubernetes manifest: valid, a native sidecar, hardened, and its configuration loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from proxy.config import load

FILE = Path(__file__).resolve().parents[2] / "config/kubernetes/sidecar.yaml"
DOCUMENTS: list[dict[str, Any]] = list(yaml.safe_load_all(FILE.read_text()))
NAMES = [document["kind"] for document in DOCUMENTS]


def one(kind: str) -> dict[str, Any]:
    (found,) = (document for document in DOCUMENTS if document["kind"] == kind)
    return found


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = one("Deployment")["spec"]["template"]["spec"]
    return spec


def sluis() -> dict[str, Any]:
    (container,) = pod()["initContainers"]
    assert container["name"] == "sluis"
    return dict(container)


@pytest.mark.parametrize("version", ["1.29", "1.33", "1.37"])
@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_manifest_is_valid(document: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(document, version, strict=True)


def test_relay_starts_first_and_stops_last() -> None:
    container = sluis()
    assert container["restartPolicy"] == "Always"
    assert container["startupProbe"]["httpGet"]["path"] == "/readyz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"


def test_ledger_outlives_the_pod_and_has_one_owner() -> None:
    mounts = {mount["mountPath"]: mount["name"] for mount in sluis()["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod()["volumes"]}
    claim = volumes[mounts["/var/lib/sluis"]]["persistentVolumeClaim"]["claimName"]
    assert claim == one("PersistentVolumeClaim")["metadata"]["name"]
    assert one("PersistentVolumeClaim")["spec"]["accessModes"] == ["ReadWriteOncePod"]
    assert one("Deployment")["spec"]["replicas"] == 1
    assert one("Deployment")["spec"]["strategy"] == {"type": "Recreate"}
    assert "NEVER AN emptyDir" in FILE.read_text()


def test_container_is_confined() -> None:
    context = sluis()["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] == 65532
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert pod()["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod()["automountServiceAccountToken"] is False


def test_admin_port_is_for_monitoring_only() -> None:
    rules = one("NetworkPolicy")["spec"]["ingress"]
    (admin,) = (rule for rule in rules if rule["ports"][0]["port"] == "admin")
    assert admin["from"]
    assert [path["path"] for path in one("Ingress")["spec"]["rules"][0]["http"]["paths"]] == ["/u/"]


def test_configuration_loads_and_its_ports_are_the_containers(tmp_path: Path) -> None:
    path = tmp_path / "sluis.toml"
    path.write_text(one("ConfigMap")["data"]["sluis.toml"])
    settings = load(path, {})
    ports = {port["name"]: port["containerPort"] for port in sluis()["ports"]}
    assert {listener.port for listener in settings.listeners} == {ports["smtp"]}
    assert settings.http.public.endswith(f":{ports['http']}")
    assert settings.http.admin.endswith(f":{ports['admin']}")
    mounts = {mount["mountPath"] for mount in sluis()["volumeMounts"]}
    assert str(settings.server.data_dir) in mounts
    grace = pod()["terminationGracePeriodSeconds"]
    assert settings.server.drain_timeout.total_seconds() < grace
