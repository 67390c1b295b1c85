"""cluster/: each file against the schema of what reads it, what it may never say, and one version for all of them.

The cloud files against Ray's schema and, below it, what each cloud's machines take; the manifests against Kubernetes'
own schemas and KubeRay's keys; shell scripts against shellcheck, the Containerfile against hadolint. Schemas that let
unknown keys through are made strict here, so that a wrong name fails wherever it is: each key of each file is tried.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import botocore.client
import botocore.session
import jsonschema
import kubernetes_validate
import moto
import pytest
import ray
import typer
import yaml
from botocore.validate import ParamValidator
from packaging.requirements import Requirement
from packaging.version import Version
from ray.scripts.scripts import start as ray_start
from referencing import Registry, Resource

from augft.cli import app
from augft.config import load_job

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
RAY_UP = sorted((CLUSTER / "ray-up").glob("*.yaml"))
KUBERAY = sorted((CLUSTER / "kuberay").glob("*.yaml"))
POLICY = CLUSTER / "ray-up" / "aws-head-policy.json"
SETUP = CLUSTER / "ray-up" / "setup.sh"
NODE_ENV = CLUSTER / "ray-up" / "node.env"
SBATCH = CLUSTER / "slurm" / "augft.sbatch"
CONTAINERFILE = CLUSTER / "Containerfile"
README = (CLUSTER / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RAY_FOLDER = Path(ray.__file__).parent / "autoscaler"

Data = Any
"""What YAML or JSON holds."""
Problems = Iterator[str]


def read(path: Path) -> Data:
    """The documents of a file; nothing in it is shared, whatever the anchors."""
    text = path.read_text(encoding="utf-8")
    return json.loads(json.dumps([json.loads(text)] if path.suffix == ".json" else list(yaml.safe_load_all(text))))


def pins() -> dict[str, str]:
    lines = (CLUSTER / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def unknown(data: Data, allowed: set[str], where: str) -> Problems:
    yield from (f"{where}: unknown key {key}" for key in data if key not in allowed)


def lacking(data: Data, needed: tuple[str, ...], where: str) -> Problems:
    yield from (f"{where}: no {key}" for key in needed if not data.get(key))


# -- ray start: as Ray's own command line takes it -------------------------------------------------


def ray_starts(text: str) -> list[dict[str, Any]]:
    """What each `ray start` of a shell text is given; a wrong option raises."""
    text = re.sub(r"\$\(\(.*?\)\)|\$\w+", "7", text.replace("\\\n", " "))
    lines = re.findall(r"\bray start (--.*?)(?:[;&>]|$)", text, re.MULTILINE)
    return [ray_start.make_context("start", shlex.split(line)).params for line in lines]


def start_problems(given: dict[str, Any], *, is_head: bool) -> Problems:
    if given["head"] != is_head or bool(given["address"]) == is_head:
        yield "a head is started as a worker, or the other way round"
    if given["dashboard_host"] != "127.0.0.1":
        yield f"the dashboard listens at {given['dashboard_host']}"
    if is_head and not given["disable_usage_stats"]:
        yield "usage statistics are sent"


# -- ray up ----------------------------------------------------------------------------------------

# What ray/autoscaler/_private/<provider>/ reads of `provider`; Ray's schema lets any key through there.
PROVIDER_KEYS = {
    "aws": {"type", "region", "cache_stopped_nodes"},
    "gcp": {"type", "project_id", "region", "availability_zone", "cache_stopped_nodes"},
    "azure": {
        *("type", "location", "subscription_id", "resource_group", "unique_id", "subnet_mask"),
        *("msi_name", "msi_resource_group", "availability_zone", "cache_stopped_nodes"),
    },
}
# Without the latter three Ray makes an identity of its own, and a network without the group that guards it.
PROVIDER_NEEDS = {
    "aws": ("region",),
    "gcp": ("project_id", "region", "availability_zone"),
    "azure": ("location", "subscription_id", "resource_group", "unique_id", "msi_name", "msi_resource_group"),
}

# Of the resource Instance of Google's Compute API, v1: cloud.google.com/compute/docs/reference/rest/v1/instances
GCP_INSTANCE: Data = {
    "machineType": str,
    "disks": [
        {
            "boot": bool,
            "autoDelete": bool,
            "type": str,
            "initializeParams": {"diskSizeGb": int, "diskType": str, "sourceImage": str},
        }
    ],
    "networkInterfaces": [{"network": str, "subnetwork": str, "accessConfigs": [{"name": str, "type": str}]}],
    "tags": {"items": [str]},
    "metadata": {"items": [{"key": str, "value": str}]},
    "serviceAccounts": [{"email": str, "scopes": [str]}],
    "scheduling": {
        "provisioningModel": str,
        "instanceTerminationAction": str,
        "onHostMaintenance": str,
        "automaticRestart": bool,
    },
    "guestAccelerators": [{"acceleratorType": str, "acceleratorCount": int}],
}

# The same in each cloud's file: what an installation needs, the token, and how it is installed and started.
FILE_MOUNTS = {
    **{f"~/augft/{name}": name for name in ("augft", "jobs", "cluster", "pyproject.toml", "README.md", "LICENSE")},
    "~/.ray/augft-token": "~/.ray/augft-token",
}
INSTALL = "bash ~/augft/cluster/ray-up/setup.sh"
WITH_TOKEN = ". ~/augft/cluster/ray-up/node.env; "


@cache
def ray_up_validator() -> Any:
    """Ray's own schema of `ray up` files: strict but for `provider` and `node_config`."""
    return jsonschema.Draft7Validator(json.loads((RAY_FOLDER / "ray-schema.json").read_text(encoding="utf-8")))


@cache
def run_instances() -> Any:
    """The parameters of EC2's RunInstances, by the model that boto3 itself checks calls with."""
    return botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape


@cache
def azure_parameters() -> set[str]:
    """The parameters of the template that Ray makes Azure's machines from, and the one that it reads itself."""
    template = (RAY_FOLDER / "_private" / "_azure" / "azure-vm-template.json").read_text(encoding="utf-8")
    return {*json.loads(template)["parameters"], "availability_zone"}


def misfits(data: Data, shape: Data, where: str) -> Problems:
    """Where data has another key or kind of value than a shape of dicts, lists and types."""
    if isinstance(shape, type):
        if not isinstance(data, shape):
            yield f"{where}: {data!r} is no {shape.__name__}"
    elif isinstance(shape, list):
        for item in data:
            yield from misfits(item, shape[0], f"{where}[]")
    else:
        yield from unknown(data, set(shape), where)
        for key in set(data) & set(shape):
            yield from misfits(data[key], shape[key], f"{where}.{key}")


def aws_problems(name: str, node: Data) -> Problems:
    # Ray fills in the two counts.
    report = ParamValidator().validate({"MinCount": 1, "MaxCount": 1, **node}, run_instances())
    if report.has_errors():
        yield f"{name}: {report.generate_report()}"
    # Named, or Ray makes its own: a group that lets ssh in from everywhere, a role that may do anything.
    needed = ("InstanceType", "ImageId", "SecurityGroupIds", "IamInstanceProfile", "BlockDeviceMappings")
    yield from lacking(node, needed, name)
    if node.get("MetadataOptions") != {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}:
        yield f"{name}: instance metadata is open to what runs there"
    for disk in node.get("BlockDeviceMappings", []):
        yield from lacking(disk["Ebs"], ("VolumeSize", "VolumeType", "Encrypted", "DeleteOnTermination"), name)
    market = node.get("InstanceMarketOptions", {})
    if (market.get("MarketType") == "spot" and bool(market.get("SpotOptions"))) != (name != "head"):
        yield f"{name}: {market}"


def gcp_problems(name: str, node: Data) -> Problems:
    yield from misfits(node, GCP_INSTANCE, name)
    needed = ("machineType", "disks", "networkInterfaces", "tags", "metadata", "serviceAccounts")
    yield from lacking(node, needed, name)
    for account in node["serviceAccounts"]:
        yield from lacking(account, ("email", "scopes"), name)
        if any(scope.endswith("/cloud-platform") for scope in account["scopes"]):
            yield f"{name}: may do all that its account may"
    metadata = {item["key"]: item["value"] for item in node["metadata"]["items"]}
    if metadata.get("block-project-ssh-keys") != "true" or "ssh-keys" not in metadata:
        yield f"{name}: keys of the whole project get in"
    if (node.get("scheduling", {}).get("provisioningModel") == "SPOT") != (name != "head"):
        yield f"{name}: {node.get('scheduling')}"


def azure_problems(name: str, node: Data) -> Problems:
    yield from unknown(node, {"azure_arm_parameters"}, name)
    given = node["azure_arm_parameters"]
    yield from unknown(given, azure_parameters(), name)
    yield from lacking(given, ("vmSize", "imagePublisher", "imageOffer", "imageSku", "imageVersion"), name)
    yield from unknown(given.get("billingProfile", {}), {"maxPrice"}, name)
    if (given.get("priority") == "Spot") != (name != "head"):
        yield f"{name}: priority {given.get('priority')}"


NODE_PROBLEMS = {"aws": aws_problems, "gcp": gcp_problems, "azure": azure_problems}


def ray_up_problems(documents: Data) -> Problems:
    [config] = documents
    yield from (error.message for error in ray_up_validator().iter_errors(config))
    needed = ("max_workers", "upscaling_speed", "idle_timeout_minutes", "rsync_exclude", "available_node_types")
    yield from lacking(config, needed, "file")
    provider = config["provider"]
    yield from unknown(provider, PROVIDER_KEYS[provider["type"]], "provider")
    yield from lacking(provider, PROVIDER_NEEDS[provider["type"]], "provider")
    if provider.get("cache_stopped_nodes") is not False:
        yield "stopped machines are kept, and paid for"
    if provider["type"] != "aws" and "ssh_private_key" not in config["auth"]:
        yield "Ray makes an ssh key by itself"
    types = config["available_node_types"]
    if set(types) != {"head", "train", "augment"} or config["head_node_type"] != "head":
        yield f"node types {sorted(types)}"
    for name, node in types.items():
        yield from NODE_PROBLEMS[provider["type"]](name, node["node_config"])
        yield from unknown(node["resources"], {"CPU", "GPU"}, name)
        if node.get("labels") != {"augft-role": name}:
            yield f"{name}: labels {node.get('labels')}"
        if name == "head" and node["resources"] != {"CPU": 0}:
            yield "the head takes work"
        if name != "head" and (node.get("min_workers") != 0 or not node.get("max_workers")):
            yield f"{name}: does not scale from zero"
    if config["file_mounts"] != FILE_MOUNTS or config["setup_commands"] != [INSTALL]:
        yield "installs something else"
    if not all(line.startswith(f"{INSTALL} ") for line in config["head_setup_commands"]):
        yield "installs something else on the head"
    for role in ("head", "worker"):
        commands = config[f"{role}_start_ray_commands"]
        if not all(line.startswith(WITH_TOKEN) for line in commands):
            yield f"{role}: started without the token"
        [given] = [given for line in commands for given in ray_starts(line)]
        yield from start_problems(given, is_head=role == "head")


def policy_problems(documents: Data) -> Problems:
    """A policy of AWS: no wildcard in what it allows."""
    [policy] = documents
    yield from unknown(policy, {"Version", "Statement"}, "policy")
    yield from lacking(policy, ("Version", "Statement"), "policy")
    for statement in policy["Statement"]:
        name = statement.get("Sid")
        yield from unknown(statement, {"Sid", "Effect", "Action", "Resource", "Condition"}, name)
        yield from lacking(statement, ("Sid", "Effect", "Action", "Resource"), name)
        if "*" in "".join(statement["Action"]):
            yield f"{name}: {statement['Action']}"
        yield from unknown(statement.get("Condition", {}), {"StringEquals", "StringEqualsIfExists"}, name)
        keys = {"ec2:InstanceType", "ec2:CreateAction", "ec2:ResourceTag/ray-cluster-name"}
        for test in statement.get("Condition", {}).values():
            yield from unknown(test, keys, name)


# -- Kubernetes ------------------------------------------------------------------------------------

KUBERNETES = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema" / "v1.37.0-local-strict"
KUBERAY_SCHEMA = ROOT / "tests" / "data" / "kuberay.schema.json"
HEAD = {"app.kubernetes.io/name": "augft", "augft-role": "head"}
SUBMITTER = {"augft-submit": "true"}
OPERATOR = {"app.kubernetes.io/name": "kuberay-operator"}
OPERATORS_NAMESPACE = {"kubernetes.io/metadata.name": "kuberay-operator"}
CONTAINER_SECURITY = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
IMAGE = "CHANGE-ME-registry/augft:{version}-{build}"
# Ray's health checks that need no token; all else of its web answers 401 without one.
HEAD_CHECK = {"path": "/api/gcs_healthz", "port": 8265}
WORKER_CHECK = {"path": "/api/local_raylet_healthz", "port": 52365}


@cache
def kubernetes_validator(kind: str, api_version: str) -> Any:
    """Kubernetes' own strict schema of a kind, or KubeRay's keys with Kubernetes' below them."""
    group, _, version = api_version.rpartition("/")
    name = "-".join(filter(None, (kind.lower(), group.split(".")[0], version)))
    path = KUBERAY_SCHEMA if group == "ray.io" else KUBERNETES / f"{name}.json"
    schema = json.loads(path.read_text(encoding="utf-8"))
    definitions = json.loads((KUBERNETES / "_definitions.json").read_text(encoding="utf-8"))
    registry = Resource.from_contents(schema) @ (Resource.from_contents(definitions) @ Registry())
    return jsonschema.Draft202012Validator(schema, registry=registry)


def kubernetes_problems(documents: Data) -> Problems:
    for document in documents:
        kind = document["kind"]
        is_other = kind == "RayJob" and document["spec"]["rayClusterSpec"] != ray_cluster()
        if is_other:
            yield "the job's cluster is not that of cluster.yaml"
        validator = kubernetes_validator(kind, document["apiVersion"])
        yield from (f"{kind}: {error.message}" for error in validator.iter_errors(document))
        yield from lacking(document["metadata"], ("name",), kind)
        if kind != "Namespace" and document["metadata"].get("namespace") != "augft":
            yield f"{kind}: in no namespace"
        yield from KIND_PROBLEMS[kind](document)


@cache
def ray_cluster() -> Data:
    """The cluster that each job brings too."""
    [document] = read(CLUSTER / "kuberay" / "cluster.yaml")
    return document["spec"]


def namespace_problems(document: Data) -> Problems:
    if document["metadata"].get("labels") != {"pod-security.kubernetes.io/enforce": "restricted"}:
        yield "the namespace admits any pod"


def claim_problems(document: Data) -> Problems:
    spec = document["spec"]
    yield from lacking(spec, ("storageClassName",), "claim")
    if spec.get("accessModes") != ["ReadWriteMany"] or "storage" not in spec["resources"]["requests"]:
        yield "the claim is not for many writers, or has no size"


def network_problems(document: Data) -> Problems:
    """It guards the head, and lets in pods of this project and KubeRay's operator; nothing from elsewhere."""
    spec = document["spec"]
    if spec.get("policyTypes") != ["Ingress"] or not selects(spec["podSelector"], HEAD):
        yield "the policy does not guard what comes to the head"
    for rule in spec["ingress"]:
        for peer in rule["from"]:
            is_operator = "namespaceSelector" in peer
            if is_operator and peer["namespaceSelector"] != {"matchLabels": OPERATORS_NAMESPACE}:
                yield "a rule lets another namespace in"
            if not selects(peer["podSelector"], OPERATOR if is_operator else {**HEAD, **SUBMITTER}):
                yield "a rule lets everybody in, or nobody"
        if any(port != {"protocol": "TCP", "port": 8265} for port in rule.get("ports", [])):
            yield f"a rule opens {rule['ports']}"


def selects(selector: Data, labels: dict[str, str]) -> bool:
    wanted = selector.get("matchLabels", {})
    return bool(wanted) and wanted.items() <= labels.items()


def job_problems(document: Data) -> Problems:
    spec = document["spec"]
    needed = ("submissionMode", "ttlSecondsAfterFinished", "submitterPodTemplate")
    yield from lacking(spec, needed, "job")
    if spec.get("shutdownAfterJobFinishes") is not True or "backoffLimit" not in spec:
        yield "the cluster outlives the job"
    submitter = spec["submitterPodTemplate"]
    if submitter["metadata"].get("labels") != SUBMITTER or submitter["spec"].get("restartPolicy") != "Never":
        yield "the submitter is not let through to the head, or tries for ever"
    yield from pod_problems(submitter["spec"], "submitter")


def cluster_problems(document: Data) -> Problems:
    spec = document["spec"]
    if spec.get("authOptions") != {"mode": "token", "secretName": "augft-token"}:
        yield "no token"
    if spec.get("enableInTreeAutoscaling") is not True:
        yield "no autoscaling"
    yield from lacking(spec, ("rayVersion",), "cluster")
    yield from lacking(spec["autoscalerOptions"], ("idleTimeoutSeconds", "upscalingMode", "version"), "autoscaler")
    yield from container_problems(spec["autoscalerOptions"], "autoscaler")
    head = spec["headGroupSpec"]
    if head.get("serviceType") != "ClusterIP" or head.get("enableIngress"):
        yield "the head is open to the world"
    groups = {"head": head, **{group["groupName"]: group for group in spec["workerGroupSpecs"]}}
    if set(groups) != {"head", "train", "augment"}:
        yield f"groups {sorted(groups)}"
    for name, group in groups.items():
        if group.get("labels") != {"augft-role": name}:
            yield f"{name}: labels {group.get('labels')}"
        if group["template"]["metadata"].get("labels") != {**HEAD, "augft-role": name}:
            yield f"{name}: the network policies do not know its pods"
        yield from pod_problems(group["template"]["spec"], name)
        yield from node_problems(group["template"]["spec"], name)
        words = [word for key, value in group["rayStartParams"].items() for word in (f"--{key}", value)]
        given = ray_start.make_context("start", words).params
        if name == "head" and (given["num_cpus"], given["dashboard_host"]) != (0, "0.0.0.0"):
            yield "the head takes work, or no jobs"
        if name != "head" and (group.get("minReplicas"), group.get("replicas")) != (0, 0):
            yield f"{name}: does not scale from zero"
        if name != "head":
            yield from lacking(group, ("maxReplicas",), name)


def pod_problems(spec: Data, name: str) -> Problems:
    """Of any pod: not root, no rights over its host or Kubernetes, the pinned image, no statistics, no token inside."""
    security = spec["securityContext"]
    if security.get("runAsNonRoot") is not True or security.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield f"{name}: {security}"
    yield from lacking(security, ("runAsUser", "runAsGroup"), name)
    yield from (f"{name}: {key}" for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key))
    # The head's autoscaler talks to Kubernetes; nothing else does.
    if name != "head" and spec.get("automountServiceAccountToken") is not False:
        yield f"{name}: gets a token of Kubernetes"
    for container in spec["containers"]:
        yield from container_problems(container, name)
        build = "cuda" if name == "train" else "cpu"
        if container.get("image") != IMAGE.format(version=pins()["ray"], build=build):
            yield f"{name}: image {container.get('image')}"
        env = {item["name"]: item["value"] for item in container["env"]}
        if env.get("RAY_USAGE_STATS_ENABLED") != "0" or any("TOKEN" in key for key in env):
            yield f"{name}: environment {env}"
        if any("hostPort" in port for port in container.get("ports", [])):
            yield f"{name}: a port of the host"


def node_problems(spec: Data, name: str) -> Problems:
    """Of a pod that is a node of Ray's: probes, shared storage, scratch, GPUs for those that train."""
    [container] = spec["containers"]
    for probe in (container["livenessProbe"], container["readinessProbe"]):
        if probe.get("httpGet") != (HEAD_CHECK if name == "head" else WORKER_CHECK):
            yield f"{name}: {probe}"
        yield from lacking(probe, ("initialDelaySeconds", "periodSeconds", "timeoutSeconds", "failureThreshold"), name)
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: set(volume) - {"name"} for volume in spec["volumes"]}
    if mounts != {"shared": "/shared", "scratch": "/tmp"}:
        yield f"{name}: mounts {mounts}"
    if volumes != {"shared": {"persistentVolumeClaim"}, "scratch": {"emptyDir"}}:
        yield f"{name}: volumes {volumes}"
    yield from (f"{name}: unbound {volume}" for volume in spec["volumes"] if volume.get("emptyDir") == {})
    yield from lacking(spec["securityContext"], ("fsGroup", "fsGroupChangePolicy"), name)
    if ("nvidia.com/gpu" in container["resources"]["limits"]) != (name == "train"):
        yield f"{name}: {container['resources']}"
    if name == "head":
        yield from lacking({port["name"]: True for port in container["ports"]}, ("gcs", "dashboard"), name)
    else:
        yield from lacking(spec, ("terminationGracePeriodSeconds",), name)
    if name == "train":
        yield from lacking(spec, ("tolerations",), name)


def container_problems(container: Data, name: str) -> Problems:
    if container.get("securityContext") != CONTAINER_SECURITY:
        yield f"{name}: {container.get('securityContext')}"
    for part in ("requests", "limits"):
        yield from unknown(container["resources"][part], {"cpu", "memory", "nvidia.com/gpu"}, name)
        yield from lacking(container["resources"][part], ("cpu", "memory"), f"{name}.{part}")


KIND_PROBLEMS: dict[str, Callable[[Data], Problems]] = {
    "Namespace": namespace_problems,
    "PersistentVolumeClaim": claim_problems,
    "NetworkPolicy": network_problems,
    "RayCluster": cluster_problems,
    "RayJob": job_problems,
}


# -- each file, and each key of it -----------------------------------------------------------------


def problems(path: Path, documents: Data) -> Problems:
    """All that is wrong with a file."""
    if path == POLICY:
        return policy_problems(documents)
    return kubernetes_problems(documents) if path in KUBERAY else ray_up_problems(documents)


def keys_of(data: Data, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of each key; list items are steps, not keys."""
    for step, value in data.items() if isinstance(data, dict) else enumerate(data):
        if isinstance(data, dict):
            yield (*path, step)
        if isinstance(value, dict | list):
            yield from keys_of(value, (*path, step))


def renamed(documents: Data, path: tuple[Any, ...]) -> Data:
    """A copy in which the key at the end of a path has a wrong name."""
    copy = json.loads(json.dumps(documents))
    holder = copy
    for step in path[:-1]:
        holder = holder[step]
    holder[f"{path[-1]}x"] = holder.pop(path[-1])
    return copy


def is_refused(path: Path, documents: Data) -> bool:
    try:
        return any(problems(path, documents))
    except Exception:  # a check stumbles over what is not where it has to be: no less a failure
        return True


@pytest.mark.parametrize("path", [*RAY_UP, *KUBERAY, POLICY], ids=lambda path: path.name)
def test_a_file_is_what_its_reader_takes_and_opens_nothing(path: Path) -> None:
    assert list(problems(path, read(path))) == []


@pytest.mark.parametrize("path", [*RAY_UP, *KUBERAY, POLICY], ids=lambda path: path.name)
def test_a_key_with_a_wrong_name_fails(path: Path) -> None:
    documents = read(path)
    keys = list(keys_of(documents))
    assert len(keys) > 15
    assert [".".join(map(str, key)) for key in keys if not is_refused(path, renamed(documents, key))] == []


UNSAFE = [
    ("ray-up/aws.yaml", "--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0"),
    ("ray-up/aws.yaml", "--disable-usage-stats", ""),
    ("ray-up/aws.yaml", "- . ~/augft/cluster/ray-up/node.env; ulimit", "- ulimit"),
    ("ray-up/aws.yaml", "ray start --head --port", "ray start --head --prt"),
    ("ray-up/aws.yaml", "[CHANGE-ME-sg]", "[]"),
    ("ray-up/aws.yaml", "Encrypted: true", "Encrypted: false"),
    ("ray-up/aws.yaml", "HttpTokens: required", "HttpTokens: optional"),
    ("ray-up/aws.yaml", "MarketType: spot", "MarketType: capacity-block"),
    ("ray-up/gcp.yaml", "auth/devstorage.read_write]", "auth/cloud-platform]"),
    ("ray-up/gcp.yaml", "min_workers: 0", "min_workers: 1"),
    ("ray-up/azure.yaml", "  msi_name: CHANGE-ME-augft", ""),
    ("ray-up/azure.yaml", "resources: {CPU: 0}", "resources: {CPU: 2}"),
    ("ray-up/aws-head-policy.json", '"ec2:RunInstances"', '"ec2:*"'),
    ("kuberay/cluster.yaml", "mode: token", "mode: disabled"),
    ("kuberay/cluster.yaml", "runAsUser: 1000", "runAsUser: 0"),
    ("kuberay/cluster.yaml", "runAsNonRoot: true", "runAsNonRoot: false"),
    ("kuberay/cluster.yaml", "drop: [ALL]", "drop: [NET_RAW]"),
    ("kuberay/cluster.yaml", "serviceType: ClusterIP", "serviceType: NodePort"),
    ("kuberay/cluster.yaml", "containerPort: 8265", "containerPort: 8265, hostPort: 8265"),
    ("kuberay/cluster.yaml", 'RAY_USAGE_STATS_ENABLED, value: "0"', 'RAY_USAGE_STATS_ENABLED, value: "1"'),
    ("kuberay/cluster.yaml", "/api/gcs_healthz", "/api/version"),
    ("kuberay/cluster.yaml", "-cuda", "-cpu"),
    ("kuberay/train.yaml", "allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true"),
    ("kuberay/tune.yaml", "maxReplicas: 4", "maxReplicas: 5"),
    ("kuberay/base.yaml", 'augft-submit: "true"', ""),
    ("kuberay/base.yaml", "port: 8265", "port: 10001"),
    ("kuberay/base.yaml", "enforce: restricted", "enforce: privileged"),
    ("kuberay/base.yaml", "ReadWriteMany", "ReadWriteOnce"),
]


@pytest.mark.parametrize(("name", "safe", "unsafe"), UNSAFE)
def test_an_unsafe_or_wrong_value_fails(name: str, safe: str, unsafe: str, tmp_path: Path) -> None:
    path = CLUSTER / name
    text = path.read_text(encoding="utf-8")
    assert safe in text
    (tmp_path / path.name).write_text(text.replace(safe, unsafe, 1), encoding="utf-8")
    assert is_refused(path, read(tmp_path / path.name))


def test_no_file_speaks_of_the_whole_world() -> None:
    for path in filter(Path.is_file, CLUSTER.rglob("*")):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"0\.0\.0\.0/0|::/0|LoadBalancer|NodePort|hostPort|AUTH_MODE[=: ]+disabled", text), path
        assert "0.0.0.0" not in text or path in KUBERAY, path


def test_on_aws_ray_makes_no_group_and_no_role_and_needs_no_more_than_the_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's own provider against a stand-in for AWS: what `ray up` makes first, and what the head does after."""
    for name, value in {"HOME": str(tmp_path), "AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none"}.items():
        monkeypatch.setenv(name, value)
    called = set()
    make_call = botocore.client.BaseClient._make_api_call

    def record(client: Any, name: str, given: Data) -> Any:
        called.add(name)
        return make_call(client, name, given)

    with moto.mock_aws():
        from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

        ec2, iam = boto3.client("ec2", "us-west-2"), boto3.client("iam", "us-west-2")
        group = ec2.create_security_group(GroupName="augft", Description="augft")["GroupId"]
        groups = len(ec2.describe_security_groups()["SecurityGroups"])
        for role in ("head", "worker"):
            iam.create_instance_profile(InstanceProfileName=f"CHANGE-ME-augft-{role}")
        text = (CLUSTER / "ray-up" / "aws.yaml").read_text(encoding="utf-8").replace("CHANGE-ME-sg", group)
        config = AWSNodeProvider.bootstrap_config(yaml.safe_load(re.sub("CHANGE-ME-ami.*", "ami-1a2b3c4d", text)))
        assert len(ec2.describe_security_groups()["SecurityGroups"]) == groups
        assert iam.list_roles()["Roles"] == []

        monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", record)
        provider = AWSNodeProvider(config["provider"], "augft")
        for name, node in config["available_node_types"].items():
            [made] = provider.create_node(node["node_config"], {"ray-user-node-type": name}, 1).values()
            made.reload()
            assert [each["GroupId"] for each in made.security_groups] == [group]
            assert made.instance_lifecycle == (None if name == "head" else "spot")
        running = provider.non_terminated_nodes({})
        provider.set_node_tags(made.id, {"ray-node-status": "up-to-date"})
        provider.terminate_nodes(running)
    [policy] = read(POLICY)
    allowed = yaml.safe_dump([statement["Action"] for statement in policy["Statement"]])
    assert called == {"RunInstances", "DescribeInstances", "CreateTags", "TerminateInstances"}
    assert set(re.findall(r"ec2:(\w+)", allowed)) == called


# -- one version -----------------------------------------------------------------------------------


def test_ray_is_the_lowest_that_the_project_takes() -> None:
    [requirement] = [Requirement(line) for line in PROJECT["dependencies"] if line.startswith("ray")]
    assert "default" in requirement.extras, "without it there are no jobs, no dashboard and no autoscaler"
    [lowest] = [Version(part.version) for part in requirement.specifier if part.operator == ">="]
    assert Version(pins()["ray"]) == lowest


def test_each_dependency_is_pinned_to_what_the_project_takes() -> None:
    requirements = {requirement.name: requirement for requirement in map(Requirement, PROJECT["dependencies"])}
    assert set(pins()) == set(requirements)
    for name, version in pins().items():
        assert requirements[name].specifier.contains(version), name


def test_all_files_name_the_same_ray() -> None:
    assert ray_cluster()["rayVersion"] == pins()["ray"]
    files = [README, *(path.read_text(encoding="utf-8") for path in (CONTAINERFILE, *KUBERAY))]
    tags = {tag for text in files for tag in re.findall(r"augft:([\d.]+)-(?:cpu|cuda)", text)}
    assert tags == {pins()["ray"]}


def test_nodes_and_images_have_the_same_python() -> None:
    [setup] = re.findall(r"^python=(\S+)$", SETUP.read_text(encoding="utf-8"), re.MULTILINE)
    [image] = re.findall(r"^FROM docker.io/library/python:(\d+\.\d+)\.\d+-\S+$", containerfile(), re.MULTILINE)
    assert setup == image
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(setup)


# -- scripts and the Containerfile -----------------------------------------------------------------

BIN = Path(sys.executable).parent


def lint(tool: str, *arguments: str, text: str) -> str:
    """What a linter has to say; empty when it is content."""
    done = subprocess.run([BIN / tool, *arguments, "-"], input=text, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def containerfile() -> str:
    return CONTAINERFILE.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", [SETUP, NODE_ENV, SBATCH], ids=lambda path: path.name)
def test_a_script_is_clean(path: Path) -> None:
    assert lint("shellcheck", "--shell=bash", text=path.read_text(encoding="utf-8")) == ""


@pytest.mark.parametrize("block", re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL))
def test_the_commands_of_the_readme_are_clean(block: str) -> None:
    # The venv is not there to be looked into.
    assert lint("shellcheck", "--shell=bash", "--exclude=SC1091,SC2016", text=block) == ""


def test_the_containerfile_is_clean_and_a_wrong_word_in_it_is_not() -> None:
    assert lint("hadolint", text=containerfile()) == ""
    instructions = re.findall(r"^[A-Z]+(?= )", containerfile(), re.MULTILINE)
    assert {"FROM", "ARG", "COPY", "RUN", "ENV", "USER"} <= set(instructions)
    for word in set(instructions):
        assert lint("hadolint", text=re.sub(rf"^{word} ", f"{word}X ", containerfile(), flags=re.MULTILINE)), word


def test_the_image_runs_as_no_root_with_a_token_and_from_what_is_there() -> None:
    [user] = re.findall(r"^USER (\d+):\d+$", containerfile(), re.MULTILINE)
    assert int(user) == ray_cluster()["headGroupSpec"]["template"]["spec"]["securityContext"]["runAsUser"] > 0
    for setting in ("RAY_AUTH_MODE=token", "RAY_USAGE_STATS_ENABLED=0"):
        assert setting in containerfile()
    copied = [word for line in re.findall(r"^COPY (.*) \S+$", containerfile(), re.MULTILINE) for word in line.split()]
    ignored = (CLUSTER / "Containerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert [f"!{path}" for path in copied] == [line for line in ignored if line.startswith("!")]
    assert all((ROOT / path).exists() for path in copied)


def test_nodes_have_a_token_and_send_no_statistics() -> None:
    lines = NODE_ENV.read_text(encoding="utf-8").splitlines()
    token = next(path for path in FILE_MOUNTS if path.startswith("~/.ray/"))
    for setting in ("RAY_AUTH_MODE=token", f'RAY_AUTH_TOKEN_PATH="{token.replace("~", "$HOME")}"'):
        assert f"export {setting}" in lines
    assert "export RAY_USAGE_STATS_ENABLED=0" in lines


# -- commands and job files ------------------------------------------------------------------------


def augft_commands() -> list[list[str]]:
    """Each `augft` command line of the folder: of the README, the manifests and the Slurm script."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    texts = [*blocks, *(document.get("spec", {}).get("entrypoint", "") for path in KUBERAY for document in read(path))]
    lines = [line for text in texts for line in re.findall(r"(?:^|-- )(augft .*)$", text, re.MULTILINE)]
    [example] = re.findall(r"^#   sbatch .*?/augft\.sbatch (.*)$", SBATCH.read_text(encoding="utf-8"), re.MULTILINE)
    [line] = re.findall(r"^(augft .*) &$", SBATCH.read_text(encoding="utf-8"), re.MULTILINE)
    return [shlex.split(line, comments=True) for line in (*lines, line.replace('"$@"', example))]


@pytest.mark.parametrize("words", augft_commands(), ids=" ".join)
def test_a_command_is_understood(words: list[str]) -> None:
    commands: Any = typer.main.get_command(app)
    command = commands.commands[words[1]]
    given = command.make_context(command.name, words[2:]).params
    load_job(None, given.get("overrides") or ())


def test_the_jobs_and_files_that_are_named_exist() -> None:
    for path in filter(Path.is_file, CLUSTER.rglob("*")):
        text = path.read_text(encoding="utf-8")
        named = re.findall(r"\bjobs/[\w-]+\.yaml|\bcluster/[\w./-]+\w", text)
        assert [name for name in named if not (ROOT / name).exists()] == [], path
    assert [
        name for name in re.findall(r"`((?:ray-up|kuberay|slurm)/[\w.-]+\w)`", README) if not (CLUSTER / name).exists()
    ] == []


# -- Slurm: the script with a stand-in for each command that it calls ------------------------------

# By sbatch(1).
SBATCH_OPTIONS = {
    *("job-name", "nodes", "ntasks-per-node", "cpus-per-task", "gpus-per-node", "time", "signal", "requeue"),
    *("open-mode", "output"),
}
STAND_INS = {
    # One machine plays all hosts.
    "srun": """
        while [[ $1 == --* ]]; do
            case $1 in
                --nodes=*) hosts=${1#*=} ;;
                --export=ALL | --ntasks=* | --ntasks-per-node=1 | --nodelist=* | --cpus-per-task=*) ;;
                *) exit 9 ;;
            esac
            shift
        done
        trap 'kill "${tasks[@]}"' TERM
        for ((i = 0; i < hosts; i++)); do "$@" & tasks+=($!); done
        wait "${tasks[@]}" || wait "${tasks[@]}"
        """,
    "scontrol": """
        [[ $1 == show ]] && printf '%s\\n' ${3//,/ }
        echo "scontrol $1" >>"$LOG"
        """,
    "ray": """
        if [[ $1 == health-check ]]; then grep -q "ray start --head" "$LOG"; exit; fi
        trap 'echo "ray ended" >>"$LOG"; kill $!; exit' TERM
        sleep 60 &
        echo "ray $*" >>"$LOG"
        wait
        """,
    "python": """
        case $* in
            *secrets*) exec "$PYTHON" "$@" ;;
            *get_node_ip_address*) echo 10.0.0.1 ;;
            "- "*) until grep -q "ray start --address" "$LOG"; do sleep 0.1; done; exit "$UNJOINED" ;;
        esac
        """,
    "augft": """
        trap 'echo "augft saves" >>"$LOG"; kill $!; exit 130' TERM
        sleep 60 &
        echo "augft $* with a $RAY_AUTH_MODE of ${#RAY_AUTH_TOKEN} letters" >>"$LOG"
        [[ $ENDS == never ]] || { kill $!; exit "$ENDS"; }
        wait
        """,
}


def slurm(folder: Path, *, ends: str, unjoined: str = "0", send: signal.Signals | None = None) -> tuple[int, str]:
    """Run the script; its exit code, and what was called in which order."""
    log = folder / "log"
    log.touch()
    for name, body in STAND_INS.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{body}")
        (folder / name).chmod(0o755)
    env = {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "LOG": str(log),
        "PYTHON": sys.executable,
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "one,two",
        "SLURM_CPUS_PER_TASK": "1",
        "ENDS": ends,
        "UNJOINED": unjoined,
    }
    with (folder / "out").open("w") as out:
        script = subprocess.Popen(["bash", SBATCH, "job.yaml"], env=env, stdout=out, stderr=out)
    try:
        if send is not None:
            deadline = time.monotonic() + 30
            while "augft train" not in log.read_text() and time.monotonic() < deadline:
                time.sleep(0.05)
            script.send_signal(send)
        code = script.wait(30)
    finally:
        script.kill()
    return code, log.read_text()


def test_the_slurm_script_starts_ray_on_all_nodes_and_ends_it(tmp_path: Path) -> None:
    code, log = slurm(tmp_path, ends="0")
    assert code == 0
    head, worker = ray_starts(log)
    assert list(start_problems(head, is_head=True)) == []
    assert list(start_problems(worker, is_head=False)) == []
    assert worker["address"] == f"10.0.0.1:{head['port']}"
    assert f"augft train job.yaml --address {worker['address']} --resume with a token of 64 letters" in log
    assert log.count("ray ended") == 2
    assert "requeue" not in log
    assert not re.search("[0-9a-f]{64}", log + (tmp_path / "out").read_text()), "the token is on a command line"


@pytest.mark.parametrize(("send", "goes_on"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_the_slurm_script_saves_before_it_ends(tmp_path: Path, send: signal.Signals, goes_on: bool) -> None:
    code, log = slurm(tmp_path, ends="never", send=send)
    assert code == 130
    assert log.count("augft saves") == 1
    assert ("scontrol requeue" in log) == goes_on
    assert log.count("ray ended") == 2


def test_the_slurm_script_says_what_failed(tmp_path: Path) -> None:
    code, log = slurm(tmp_path, ends="1")
    assert (code, log.count("ray ended")) == (1, 2)
    other = tmp_path / "other"
    other.mkdir()
    code, log = slurm(other, ends="0", unjoined="1")
    assert (code, log.count("ray ended")) == (1, 2)
    assert "not all of 2 nodes joined" in (other / "out").read_text()
    assert "augft train" not in log


def test_the_slurm_script_asks_slurm_for_what_it_knows() -> None:
    text = SBATCH.read_text(encoding="utf-8")
    options = re.findall(r"^#SBATCH --([\w-]+)", text, re.MULTILINE)
    assert set(options) == SBATCH_OPTIONS
    assert "#SBATCH --signal=B:USR1@" in text
    assert text.index("#SBATCH") < text.index("\nset -euo pipefail"), "sbatch reads no further than the first command"
