"""The files under cluster/ against the schemas of those who read them, and against one another."""

from __future__ import annotations

import copy
import functools
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version
from support import crds, kustomize
from support.commands import parse, shown

import raypose

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
KUBERAY = CLUSTER / "kuberay"
FOLDERS = ["base", "overlays/dev", "overlays/prod"]
FILES = sorted(path for path in CLUSTER.rglob("*") if path.is_file())
AWS = CLUSTER / "aws.yaml"
KUBERNETES = ("1.30", "1.37")
"""Oldest and newest version that the objects are held against."""
SCHEMALESS = {"PodMonitor", "NodePool", "ClusterConfig"}
"""Kinds whose definitions are at hand nowhere: looked at below, field by field."""
DRIVERS = {"raypose.io/role": "driver"}
TRAINERS = {"raypose.io/role": "trainer", "ray.io/market-type": "spot"}


@functools.cache
def built(folder: str) -> list[dict[str, Any]]:
    return kustomize.build(KUBERAY / folder)


def one(kind: str, folder: str = "base") -> dict[str, Any]:
    (found,) = [each for each in built(folder) if each["kind"] == kind]
    return copy.deepcopy(found)


def pinned(package: str) -> str:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith(f"{package}=="))


def walk(value: Any) -> Iterator[Any]:
    """Yield a value and all within it."""
    yield value
    for each in value.values() if isinstance(value, dict) else value:
        if isinstance(each, dict | list):
            yield from walk(each)


def pods(found: Any) -> list[dict[str, Any]]:
    """Return the specifications of pods in an object."""
    return [each for each in walk(found) if isinstance(each, dict) and "containers" in each]


def clusters(folder: str) -> list[dict[str, Any]]:
    return [
        one("RayCluster", folder)["spec"],
        one("RayService", folder)["spec"]["rayClusterConfig"],
    ]


# --- aws.yaml -------------------------------------------------------------------------------------


def aws() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(AWS.read_text())
    return found


def prepared(document: dict[str, Any]) -> dict[str, Any]:
    """Return what `ray up` makes of a document; refuses what Ray's schema does not know."""
    from ray.autoscaler._private import util

    filled: dict[str, Any] = util.prepare_config(copy.deepcopy(document))
    util.validate_config(filled)
    return filled


def test_aws_is_what_ray_reads() -> None:
    filled = prepared(aws())
    assert filled["setup_commands"] == []
    assert filled["head_setup_commands"] == filled["worker_setup_commands"] == []


def broken_aws(where: str) -> dict[str, Any]:
    document = aws()
    if where == "top":
        document["idle_timeout"] = 5
    elif where == "type":
        document["available_node_types"]["cpu"]["max_worker"] = 1
    elif where == "value":
        document["available_node_types"]["cpu"]["resources"]["CPU"] = "8"
    else:
        document["auth"]["ssh_proxy"] = "x"
    return document


@pytest.mark.parametrize("where", ["top", "type", "value", "auth"])
def test_a_wrong_field_of_aws_is_found(where: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        prepared(broken_aws(where))


def test_aws_opens_no_port() -> None:
    document = aws()
    assert "security_group" not in document["provider"]  # Ray would let the world in on port 22
    for name, each in document["available_node_types"].items():
        assert each["node_config"]["SecurityGroupIds"], name
        assert each["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
    assert "0.0.0.0" not in AWS.read_text()
    assert document["provider"]["use_internal_ips"] is True
    assert document["auth"]["ssh_proxy_use_node_id"] is True
    (head,) = [line for line in document["head_start_ray_commands"] if "--head" in line]
    assert "--dashboard-host=127.0.0.1" in shlex.split(head)
    template = (CLUSTER / "aws-account.yaml").read_text()
    ingress = template.split("AWS::EC2::SecurityGroupIngress")[1].split("\n\n")[0]
    assert template.count("Ingress") == 1
    assert "Cidr" not in ingress
    assert "SourceSecurityGroupId: !Ref SecurityGroup" in ingress


def test_aws_asks_for_a_token() -> None:
    document = aws()
    options = " ".join(document["docker"]["run_options"])
    assert "--env RAY_AUTH_MODE=token" in options
    (path,) = re.findall(r"RAY_AUTH_TOKEN_PATH=(\S+)", options)
    assert document["file_mounts"] == {"~/.ray": "~/.ray"}
    assert path == "/home/ray/.ray/auth_token"
    assert "HOME=/home/ray" in (CLUSTER / "Dockerfile").read_text()


def test_aws_keeps_drivers_off_spot_and_gpus() -> None:
    types = aws()["available_node_types"]
    assert "InstanceMarketOptions" not in types["head"]["node_config"]
    for name, each in types.items():
        spot = each["node_config"].get("InstanceMarketOptions", {}).get("MarketType") == "spot"
        assert spot == (each["labels"].get("ray.io/market-type") == "spot"), name
        if spot or each["resources"].get("GPU"):
            assert each["labels"] == TRAINERS
            assert each["resources"]["trainer"] == each["resources"]["GPU"]
            assert "driver" not in each["resources"]
            assert each["min_workers"] == 0
        else:
            assert each["labels"] == DRIVERS
            assert each["resources"]["driver"] == 1000
    assert types["head"]["resources"]["CPU"] == 0
    assert aws()["max_workers"] == sum(each.get("max_workers", 0) for each in types.values())
    assert {each["node_config"]["IamInstanceProfile"]["Name"] for each in types.values()} == {
        "raypose-head",
        "raypose-worker",
    }


def test_labels_are_those_that_ray_sets_and_takes() -> None:
    from ray import _raylet
    from ray._private.label_utils import validate_node_label_syntax

    assert _raylet.RAY_NODE_MARKET_TYPE_KEY == "ray.io/market-type"
    validate_node_label_syntax(DRIVERS)
    validate_node_label_syntax(TRAINERS)


def test_the_account_is_what_cloudformation_reads() -> None:
    from cfnlint import api

    text = (CLUSTER / "aws-account.yaml").read_text()
    config = api.ManualArgs(regions=["us-west-2"])
    assert [str(match) for match in api.lint(text, config=config)] == []
    broken = text.replace("RoleName: raypose-head", "RolName: raypose-head")
    assert api.lint(broken, config=config)


def test_ray_up_on_a_simulated_aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The account's stack, then what the launcher does before and when it starts a machine."""
    import boto3
    from moto import mock_aws
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    monkeypatch.setenv("HOME", str(tmp_path))  # the launcher makes a key for SSH there
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    with mock_aws():
        ec2, stacks = boto3.client("ec2"), boto3.client("cloudformation")
        vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
        stacks.create_stack(
            StackName="raypose",
            TemplateBody=(CLUSTER / "aws-account.yaml").read_text(),
            Capabilities=["CAPABILITY_NAMED_IAM"],
            Parameters=[
                {"ParameterKey": "Bucket", "ParameterValue": "my-bucket"},
                {"ParameterKey": "Vpc", "ParameterValue": vpc},
            ],
        )
        (output,) = stacks.describe_stacks(StackName="raypose")["Stacks"][0]["Outputs"]
        before = ec2.describe_security_groups()["SecurityGroups"]
        text = AWS.read_text().replace("sg-" + 17 * "0", output["OutputValue"])
        document = yaml.safe_load(text.replace("subnet-" + 17 * "0", subnet))
        config = bootstrap_aws(prepared(document))
        assert ec2.describe_security_groups()["SecurityGroups"] == before
        assert config["head_node"] == {}  # no role of Ray's own, which may do anything
        node = config["available_node_types"]["gpu-spot"]["node_config"]
        tags = {"ray-node-type": "worker", "ray-launch-config": "a", "ray-node-name": "b"}
        AWSNodeProvider(config["provider"], "raypose").create_node(node, tags, 1)
        (made,) = ec2.describe_instances()["Reservations"][0]["Instances"]
    assert made["InstanceLifecycle"] == "spot"
    assert made["IamInstanceProfile"]["Arn"].endswith("/raypose-worker")
    assert [group["GroupId"] for group in made["SecurityGroups"]] == [output["OutputValue"]]
    (rules,) = [
        each["IpPermissions"] for each in before if each["GroupId"] == output["OutputValue"]
    ]
    assert [rule["IpRanges"] + rule["Ipv6Ranges"] for rule in rules] == [[]]


# --- kuberay/ -------------------------------------------------------------------------------------


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
    monitor = one("PodMonitor", "overlays/prod")
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
        there = {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"}
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
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
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
    assert all("raypose.io/cluster" in labels for labels in templates)
    for each in built(folder):
        if each["kind"] in {"NetworkPolicy", "PodDisruptionBudget"}:
            key = "selector" if each["kind"] == "PodDisruptionBudget" else "podSelector"
            wanted = each["spec"][key].get("matchLabels", {}).items()
            assert any(wanted <= labels.items() for labels in templates), each["metadata"]["name"]


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


# --- the image ------------------------------------------------------------------------------------

DOCKERFILE = (CLUSTER / "Dockerfile").read_text()


def instructions(text: str) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile with what follows each, comments left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    pairs = [line.split(None, 1) for line in joined.splitlines() if line.strip()]
    return [(word, " ".join(rest.split())) for word, rest in pairs]


def test_hadolint_finds_nothing() -> None:
    tool = Path(sys.executable).with_name("hadolint")
    if not tool.exists():
        pytest.skip("hadolint is not installed: it has no wheel for every machine")
    done = subprocess.run(
        [tool, CLUSTER / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_image_is_made_of_what_is_here() -> None:
    found = instructions(DOCKERFILE)
    bases = [rest for word, rest in found if word == "FROM"]
    assert all(re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+", base) for base in bases)
    let_in = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    assert "*" in (ROOT / ".dockerignore").read_text().splitlines()
    copied = {each for word, rest in found if word == "COPY" for each in rest.split()[:-1]}
    assert copied == let_in
    assert all((ROOT / each).exists() for each in copied)
    assert not any(word in {"ADD", "ENTRYPOINT"} for word, _ in found)


def test_the_image_holds_the_versions_that_were_tested() -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    installs = re.findall(
        r"pip install ([^&]+)", " ".join(rest for _, rest in instructions(DOCKERFILE))
    )
    assert installs
    for words in map(shlex.split, installs):
        assert words[words.index("-c") + 1] == "constraints.txt"
        assert "--upgrade" not in words
    (ours,) = re.findall(r"'\.\[([\w,]+)\]'", DOCKERFILE)
    assert {"serve", "cluster"} <= set(ours.split(",")) <= set(extras)
    assert any(Requirement(each).name == "ray" for each in extras["cluster"])


def test_the_image_runs_as_nobody_and_fetches_nothing() -> None:
    found = dict(instructions(DOCKERFILE))  # the last of each word counts
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", found["USER"])
    assert "/api/healthz" in found["HEALTHCHECK"]
    assert found["CMD"] == '["raypose", "--help"]'
    assert "RAY_AUTH_MODE=token" in found["ENV"]
    starting = [
        found["CMD"],
        *aws()["head_start_ray_commands"],
        *aws()["worker_start_ray_commands"],
    ]
    assert not any(re.search(r"\b(pip|apt|curl|wget|git)\b", line) for line in starting)


# --- all files ------------------------------------------------------------------------------------


def test_one_image_and_one_ray_everywhere() -> None:
    image = f"registry.example.com/raypose:{raypose.__version__}"
    for path in FILES:
        for found in re.findall(r"\S*raypose:\d\S*", path.read_text()):
            assert found in {image, f"raypose:{raypose.__version__}"}, path
    assert aws()["docker"]["image"] == image
    for folder in FOLDERS:
        found = {
            container["image"]
            for each in built(folder)
            for pod in pods(each)
            for container in pod["containers"]
        }
        assert found == {image}
        assert {each["rayVersion"] for each in clusters(folder)} == {pinned("ray")}
    assert Version(pinned("ray")) >= Version("2.60")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CLUSTER)))
def test_files_hold_no_secret_and_open_no_door(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY|eyJ[\w-]{20}", text)
    assert not re.search(r"RAY_AUTH_TOKEN=|SECRET_ACCESS_KEY: *\S|auth_token: *\S", text)
    assert "LoadBalancer" not in text
    assert "NodePort" not in text
    if path.suffix == ".yaml" and path.name != "aws-account.yaml":
        for each in yaml.safe_load_all(text):
            found = each if isinstance(each, list) else [each]
            assert all(
                one_of.get("kind") not in {"Secret", "Service", "Ingress"} for one_of in found
            )
            assert path.read_text().startswith(("#", "apiVersion", "- op"))


def commands() -> list[str]:
    """Return each raypose command in cluster/ and in the pages about it."""
    found = [
        line
        for page in ("cluster-aws.md", "cluster-kubernetes.md")
        for line in shown((ROOT / "docs" / page).read_text())
    ]
    found += [one("RayJob", folder)["spec"]["entrypoint"] for folder in FOLDERS]
    return sorted(set(found))


@pytest.mark.parametrize("line", commands())
def test_commands_parse(line: str) -> None:
    parse(line)


def test_pages_name_files_and_objects_that_there_are() -> None:
    for page in ("cluster-aws.md", "cluster-kubernetes.md"):
        text = (ROOT / "docs" / page).read_text()
        for path in re.findall(r"(?<![\w/])cluster/[\w./-]+", text):
            assert (ROOT / path.rstrip("./")).exists(), path
        for name in re.findall(r"(?:service|raycluster|rayservice|job|rayjob)[/ ]([a-z-]+)", text):
            if name.endswith("-svc"):
                assert name in {"train-head-svc", "raypose-serve-svc"}, name
        assert f"raypose:{raypose.__version__}" in text
        assert page in (ROOT / "docs/index.md").read_text()
