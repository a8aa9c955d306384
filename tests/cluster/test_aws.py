"""cluster/aws.yaml and the account it needs: Ray's schema, CloudFormation's, a simulated EC2."""

from __future__ import annotations

import copy
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from support.clusters import (
    AWS,
    CLUSTER,
    DRIVERS,
    TRAINERS,
    aws,
)

from raypose import storage


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


@contextmanager
def simulated_aws() -> Iterator[None]:
    """Simulate AWS within this process, and leave be what its S3 servers hold for other tests."""
    from moto import mock_aws

    simulated = mock_aws()
    simulated.start(reset=False)
    try:
        yield
    finally:
        simulated.stop(remove_data=False)


def test_ray_up_on_a_simulated_aws(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The account's stack, then what the launcher does before and when it starts a machine."""
    import boto3
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    endpoint = os.environ["AWS_ENDPOINT_URL"]
    storage.write_bytes(f"{bucket}/kept", b"by another")
    monkeypatch.setenv("HOME", str(tmp_path))  # the launcher makes a key for SSH there
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    with simulated_aws():
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
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    assert storage.read_bytes(f"{bucket}/kept") == b"by another"
