"""cluster/kuberay/ against the schemas of KubeRay and Kubernetes, as Kustomize makes it."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from support import crds, kustomize
from support.clusters import (
    DRIVERS,
    FOLDERS,
    KUBERAY,
    ROOT,
    TRAINERS,
    built,
    clusters,
    one,
    pods,
    walk,
)

KUBERNETES = ("1.30", "1.37")
"""Oldest and newest version that the objects are held against."""
SCHEMALESS = {"PodMonitor", "NodePool", "ClusterConfig"}
"""Kinds whose definitions are at hand nowhere: looked at below, field by field."""


@pytest.fixture(scope="module")
def schemas() -> dict[tuple[str, str], dict[str, Any]]:
    """Of KubeRay's kinds."""
    folder = ROOT.parent / "shared/data/kuberay-crds"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: KubeRay's definitions are not at hand")
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for path in sorted(folder.glob("*.yaml")):
        found |= crds.load(path)
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_kuberay_objects_are_what_it_reads(folder: str, schemas: Any) -> None:
    kinds = set()
    for each in built(folder):
        if each["apiVersion"].startswith("ray.io/"):
            assert crds.complaints(schemas[each["apiVersion"], each["kind"]], each) == []
            kinds.add(each["kind"])
    assert kinds == {"RayCluster", "RayJob", "RayService"}


@pytest.mark.parametrize(
    ("path", "key", "value"),
    [
        ((), "rayversion", "2.60.0"),
        (("headGroupSpec", "template", "spec", "containers", 0), "imagepullPolicy", "Always"),
        (("workerGroupSpecs", 0), "minReplicas", "one"),
        (("authOptions",), "mode", "on"),
        (("gcsFaultToleranceOptions", "storage"), "existingClaim", "mine"),
    ],
)
def test_a_wrong_field_of_kuberay_is_found(
    path: tuple[Any, ...], key: str, value: Any, schemas: Any
) -> None:
    cluster = one("RayCluster")
    inner = cluster["spec"]
    for part in path:
        inner = inner[part]
    inner[key] = value
    (complaint,) = crds.complaints(schemas["ray.io/v1", "RayCluster"], cluster)
    assert key in complaint


def others() -> list[dict[str, Any]]:
    """Objects of Kubernetes itself."""
    found = [each for folder in FOLDERS for each in built(folder)]
    found += kustomize.documents(KUBERAY / "eks/pools.yaml")
    return [
        each
        for each in found
        if not each["apiVersion"].startswith("ray.io/") and each["kind"] not in SCHEMALESS
    ]


@pytest.mark.parametrize("version", KUBERNETES)
def test_objects_are_what_kubernetes_reads(version: str) -> None:
    assert len(others()) >= 30
    for each in others():
        kubernetes_validate.validate(each, version, strict=True)


def test_a_wrong_field_of_kubernetes_is_found() -> None:
    budget = next(each for each in others() if each["kind"] == "PodDisruptionBudget")
    broken = copy.deepcopy(budget)
    broken["spec"]["maxUnavaliable"] = 1
    with pytest.raises(kubernetes_validate.ValidationError, match="maxUnavaliable"):
        kubernetes_validate.validate(broken, KUBERNETES[1], strict=True)


def test_prometheus_asks_ports_that_pods_name() -> None:
    monitor = one("PodMonitor", "overlays/prod", name="raypose")
    assert set(monitor["spec"]) == {"selector", "podMetricsEndpoints"}
    asked = {each["port"] for each in monitor["spec"]["podMetricsEndpoints"]}
    for cluster in clusters("overlays/prod"):
        (head,) = pods(cluster["headGroupSpec"])
        named = {port["name"]: port["containerPort"] for port in head["containers"][0]["ports"]}
        assert asked <= set(named)
        let_in = policy("from-prometheus")["ingress"][0]["ports"]
        assert {each["port"] for each in let_in} == {named[name] for name in asked}


@pytest.mark.parametrize("folder", FOLDERS)
def test_kustomize_makes_the_same(folder: str) -> None:
    """What the tests here look at is what `kubectl apply -k` sends."""
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not at hand")
    done = subprocess.run(
        ["kubectl", "kustomize", KUBERAY / folder], capture_output=True, text=True, check=True
    )

    def ordered(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return sorted(found, key=lambda each: (each["kind"], each["metadata"]["name"]))

    assert ordered(list(yaml.safe_load_all(done.stdout))) == ordered(built(folder))


def test_every_file_of_a_folder_is_used() -> None:
    for name in FOLDERS:
        folder = KUBERAY / name
        document = yaml.safe_load((folder / "kustomization.yaml").read_text())
        used = [*document["resources"], *(each["path"] for each in document.get("patches", []))]
        for each in document.get("configMapGenerator", []):
            used += each["files"]
        there = {path.name for path in folder.glob("*.*")} - {"kustomization.yaml"}
        assert there == {each for each in used if not each.startswith("..")}


def test_a_patch_without_a_target_is_refused(tmp_path: Path) -> None:
    shutil.copytree(KUBERAY, tmp_path / "kuberay")
    path = tmp_path / "kuberay/overlays/dev/kustomization.yaml"
    path.write_text(path.read_text().replace("name: train", "name: trian"))
    with pytest.raises(ValueError, match="not enough values"):
        kustomize.build(path.parent)


@pytest.mark.parametrize("folder", FOLDERS)
def test_ray_asks_for_a_token_everywhere(folder: str) -> None:
    for cluster in clusters(folder):
        assert cluster["authOptions"] == {"mode": "token", "secretName": "raypose-token"}
        assert cluster["gcsFaultToleranceOptions"]["backend"] == "rocksdb"
        assert cluster["autoscalerOptions"]["version"] == "v2"
    assert one("RayJob", folder)["spec"]["clusterSelector"] == {
        "ray.io/cluster": one("RayCluster", folder)["metadata"]["name"]
    }


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_group_says_a_thing_twice(folder: str) -> None:
    """KubeRay's operator refuses a group whose resources or labels stand in both places."""
    for cluster in clusters(folder):
        for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
            said = {"num-cpus", "num-gpus", "memory", "resources", "labels"}
            assert not said & set(group["rayStartParams"])
            assert "restartPolicy" not in group["template"]["spec"]  # Never, with version 2


@pytest.mark.parametrize("folder", FOLDERS)
def test_services_have_names_of_their_own(folder: str) -> None:
    """KubeRay names a Service after a RayCluster and after a RayService alike."""
    names = [one(kind, folder)["metadata"]["name"] for kind in ("RayCluster", "RayService")]
    assert len(set(names)) == 2


@pytest.mark.parametrize("folder", FOLDERS)
def test_pods_may_do_little(folder: str) -> None:
    found = [pod for each in built(folder) for pod in pods(each)]
    assert len(found) >= 5
    for pod in found:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 1000
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        head = pod["serviceAccountName"] == "raypose-head"  # its autoscaler asks Kubernetes
        assert head or pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            read_only = {"readOnlyRootFilesystem": True} if container["name"] == "haproxy" else {}
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                **read_only,
            }
            assert set(container["resources"]) == {"requests", "limits"}
            if container["name"] != "ray-job-submitter":
                assert {"livenessProbe", "readinessProbe"} <= set(container)
    for cluster in clusters(folder):
        assert cluster["autoscalerOptions"]["securityContext"]["allowPrivilegeEscalation"] is False
    namespace = one("Namespace", folder)["metadata"]
    assert namespace["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_autoscaler_sees_where_drivers_may_be(folder: str) -> None:
    """By the function with which Ray's autoscaler reads a RayCluster."""
    from ray.autoscaler._private.kuberay import autoscaling_config

    for spec in clusters(folder):
        derived = autoscaling_config._derive_autoscaling_config_from_ray_cr(
            {"metadata": {"name": "x", "namespace": "raypose"}, "spec": spec}
        )
        for name, each in derived["available_node_types"].items():
            if each["resources"].get("GPU"):
                assert each["labels"] == TRAINERS, name
                assert each["resources"]["trainer"] == each["resources"]["GPU"]
                assert "driver" not in each["resources"]
                assert each["min_workers"] == 0
            else:
                assert each["labels"] == DRIVERS, name
                assert each["resources"]["driver"] == 1000
        assert derived["available_node_types"]["headgroup"]["resources"]["CPU"] == 0
    assert one("RayJob", folder)["spec"]["entrypointResources"] == '{"driver": 1}'


def test_spot_machines_hold_what_tolerates_them() -> None:
    pools = {
        each["spec"]["template"]["metadata"]["labels"]["raypose.io/pool"]: each["spec"]["template"]
        for each in kustomize.documents(KUBERAY / "eks/pools.yaml")
        if each["kind"] == "NodePool"
    }
    taints = {each["key"] for each in pools["gpu-spot"]["spec"]["taints"]}
    found = [pod for each in built("overlays/prod") for pod in pods(each) if "nodeSelector" in pod]
    assert {pod["nodeSelector"]["raypose.io/pool"] for pod in found} == set(pools)
    for pod in found:
        spot = pod["nodeSelector"]["raypose.io/pool"] == "gpu-spot"
        assert {each["key"] for each in pod.get("tolerations", [])} == (taints if spot else set())
        assert ("nvidia.com/gpu" in pod["containers"][0]["resources"]["limits"]) == spot


def policy(name: str) -> dict[str, Any]:
    (found,) = [
        each["spec"]
        for each in built("base")
        if each["kind"] == "NetworkPolicy" and each["metadata"]["name"] == name
    ]
    return found


def test_nothing_comes_in_but_what_must() -> None:
    assert policy("nothing-comes-in") == {"podSelector": {}, "policyTypes": ["Ingress"]}
    for each in built("base"):
        if each["kind"] == "NetworkPolicy":
            for rule in each["spec"].get("ingress", []):
                assert rule["from"], each["metadata"]["name"]  # without it, from anywhere
                assert all(source and "ipBlock" not in source for source in rule["from"])
    (clients,) = policy("from-clients")["ingress"]
    assert [port["port"] for port in clients["ports"]] == [8000]


@pytest.mark.parametrize("folder", FOLDERS)
def test_budgets_and_policies_choose_pods_that_there_are(folder: str) -> None:
    templates = [
        each["metadata"]["labels"]
        for found in built(folder)
        for each in walk(found)
        if isinstance(each, dict) and "containers" in each.get("spec", {})
    ]
    front = {"raypose.io/role": "front"}
    assert all(labels == front or "raypose.io/cluster" in labels for labels in templates)
    for each in built(folder):
        if each["kind"] in {"NetworkPolicy", "PodDisruptionBudget"}:
            key = "selector" if each["kind"] == "PodDisruptionBudget" else "podSelector"
            wanted = each["spec"][key].get("matchLabels", {}).items()
            assert any(wanted <= labels.items() for labels in templates), each["metadata"]["name"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_clients_come_to_the_endpoint_by_its_front(folder: str) -> None:
    deployment, service = one("Deployment", folder)["spec"], one("Service", folder)["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == service["selector"] == labels
    assert deployment["replicas"] == 2
    assert policy("from-clients")["podSelector"] == {"matchLabels": labels}
    (rule,) = policy("from-front")["ingress"]
    assert rule["from"] == [{"podSelector": {"matchLabels": labels}}]
    (container,) = deployment["template"]["spec"]["containers"]
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    told = {each["name"]: each["value"] for each in container["env"]}
    assert told["FRONT_BIND"] == f":{ports['clients']}"
    assert told["FRONT_WATCH"] == f":{ports['metrics']}"
    served, endpoint = one("RayService", folder)["metadata"], rule["ports"][0]["port"]
    place = f"{served['name']}-serve-svc.{served['namespace']}.svc.cluster.local"
    assert told["FRONT_BACKEND"] == f"{place}:{endpoint}"
    assert service["ports"][0]["targetPort"] == "clients"
    (watched,) = policy("front-from-prometheus")["ingress"]
    assert watched["ports"] == [{"port": ports["metrics"], "protocol": "TCP"}]
    for probe in ("livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] == ports["metrics"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_front_is_that_of_serve(folder: str) -> None:
    (made,) = [
        each
        for each in built(folder)
        if each["kind"] == "ConfigMap" and each["metadata"]["name"].startswith("raypose-front-")
    ]
    # Kustomize reads nothing outside a folder: what lies there is a copy
    assert made["data"] == {"front.cfg": (ROOT / "serve/front.cfg").read_text()}
    (pod,) = pods(one("Deployment", folder))
    (volume,) = pod["volumes"]
    assert volume["configMap"]["name"] == made["metadata"]["name"]
    (mount,) = pod["containers"][0]["volumeMounts"]
    assert pod["containers"][0]["command"][-1] == f"{mount['mountPath']}/front.cfg"
    told = {each["name"] for each in pod["containers"][0]["env"]}
    known = set(re.findall(r"presetenv (\w+)", made["data"]["front.cfg"]))
    assert told <= known


def test_names_of_generated_files_are_those_of_kustomize() -> None:
    """By examples of its own tests."""
    assert kustomize.suffix({}) == "6ct58987ht"
    assert kustomize.suffix({"one": ""}) == "9g67k2htb6"
    assert kustomize.suffix({"two": 2, "one": "", "three": 3}) == "7757f9kkct"


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_endpoint_is_that_of_serve(folder: str) -> None:
    from ray.serve.schema import ServeDeploySchema

    from raypose.serving.app import Arguments

    (ours,) = yaml.safe_load((ROOT / "serve/config.yaml").read_text())["applications"]
    document = yaml.safe_load(one("RayService", folder)["spec"]["serveConfigV2"])
    ServeDeploySchema.model_validate(document)
    (served,) = document["applications"]
    same = ("name", "route_prefix", "import_path")
    assert [served[key] for key in same] == [ours[key] for key in same]
    arguments = Arguments.model_validate(served["args"])
    assert (arguments.storage, arguments.release) == (
        ours["args"]["storage"],
        ours["args"]["release"],
    )
