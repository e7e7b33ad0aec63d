"""deploy/kubernetes.yaml and the image: valid, locked down, and in agreement with the programs."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from outbox_worker.__main__ import CLEAN_UP_S, FINISH_S
from service.server.serving import GRACE_S
from service.settings import read_settings

TOP = Path(__file__).parents[2]
MANIFESTS = list(yaml.safe_load_all((TOP / "deploy/kubernetes.yaml").read_text()))
VERSION = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["version"]
OLDEST, NEWEST = "1.30", kubernetes_validate.latest_version()
TO_SPARE_S = 2


def pods() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each pod's name and specification."""
    for manifest in MANIFESTS:
        if "template" in manifest["spec"]:
            yield manifest["metadata"]["name"], manifest["spec"]["template"]["spec"]


def pod(name: str) -> Mapping[str, Any]:
    """Return the specification of a pod."""
    return dict(pods())[name]


EVERY_POD = pytest.mark.parametrize("spec", [pytest.param(spec, id=name) for name, spec in pods()])


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda each: f"{each['kind']}")
def test_manifests_are_valid(manifest: Mapping[str, Any], version: str) -> None:
    """Each manifest is valid for Kubernetes' own schemas, without unknown fields."""
    kubernetes_validate.validate(manifest, version, strict=True)


@EVERY_POD
def test_every_pod_is_locked_down(spec: Mapping[str, Any]) -> None:
    """Each pod has a numeric user, no privileges, a read-only root and no service links."""
    assert spec["enableServiceLinks"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "memory" in container["resources"]["limits"]


@EVERY_POD
def test_every_pod_runs_this_release(spec: Mapping[str, Any]) -> None:
    """The image's tag is the version in pyproject.toml, so that a new release changes it."""
    (container,) = spec["containers"]
    assert container["image"] == f"document-links:{VERSION}"


def test_the_migration_can_be_applied_with_the_next_image() -> None:
    """The name of the Job has the version, because its template is immutable; finished Jobs are removed."""
    (job,) = (manifest for manifest in MANIFESTS if manifest["kind"] == "Job")
    assert job["metadata"]["name"] == f"document-links-migrate-{VERSION.replace('.', '-')}"
    assert job["spec"]["ttlSecondsAfterFinished"] > 0


def test_the_grace_period_is_enough() -> None:
    """The grace period is longer than the longest stop of each program."""
    service, worker = pod("document-links-service"), pod("document-links-worker")
    drain_s = read_settings({"DATABASE_URL": "postgresql://db/links"}).links_drain_seconds
    before_s = service["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    needed_s = before_s + drain_s + GRACE_S + TO_SPARE_S
    assert service["terminationGracePeriodSeconds"] >= needed_s
    assert worker["terminationGracePeriodSeconds"] >= FINISH_S + CLEAN_UP_S + TO_SPARE_S


@pytest.mark.parametrize("name", ["document-links-service", "document-links-worker"])
def test_deployments_survive_the_loss_of_a_node(name: str) -> None:
    """Two replicas run on different nodes, one may be evicted at a time, and the probes are right."""
    by_kind = {each["kind"]: each for each in MANIFESTS if each["metadata"]["name"] == name}
    labels = by_kind["Deployment"]["spec"]["selector"]
    assert by_kind["PodDisruptionBudget"]["spec"]["selector"] == labels
    spread = pod(name)["topologySpreadConstraints"]
    assert {each["topologyKey"] for each in spread} >= {"kubernetes.io/hostname"}
    assert all(each["labelSelector"] == labels for each in spread)
    (container,) = pod(name)["containers"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["startupProbe"]
    assert "/readyz" not in str(container["livenessProbe"])


def test_the_images_user_is_a_number() -> None:
    """The image's user is a number: with runAsNonRoot, Kubernetes refuses a name that it cannot check."""
    users = re.findall(r"^USER (.*)$", (TOP / "deploy/Dockerfile").read_text(), re.MULTILINE)
    assert all(re.fullmatch(r"[1-9]\d*(:\d+)?", user) for user in users)
    assert users
