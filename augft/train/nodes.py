"""The nodes of a Ray cluster: what each has, whether more will come, and asking each of them something."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray._private.label_utils import validate_label_selector
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray._private.state import state
from ray._raylet import RAY_NODE_GROUP_KEY, node_labels_match_selector  # type: ignore[attr-defined]
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.experimental.internal_kv import _internal_kv_get
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_ONLY_LOOKED_AT = re.compile(r"node_[0-9a-f]{56}")
"""How the first autoscaler names the kinds of nodes that it may not start: each node is a kind of its own."""


@dataclass(frozen=True)
class Node:
    """What matters of a node."""

    name: str
    """Its address, for people."""
    cpus: int
    gpus: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    node_id: str = ""
    object_store_bytes: int = 0

    def matches(self, selector: Mapping[str, str]) -> bool:
        """Whether Ray would run here what has this label selector; all nodes match an empty one."""
        return bool(node_labels_match_selector(dict(self.labels), dict(selector)))


@dataclass(frozen=True)
class Answer:
    """What a node said: a value, or why there is none."""

    node: Node
    value: Any = None
    error: str | None = None


def nodes_of(listing: Sequence[Mapping[str, Any]]) -> list[Node]:
    """Those of `ray.nodes()` that are alive."""
    alive = [entry for entry in listing if entry["Alive"]]
    sharing = Counter(entry["NodeManagerAddress"] for entry in alive)
    nodes = []
    for entry in alive:
        name, resources = entry["NodeManagerAddress"], entry["Resources"]
        nodes.append(
            Node(
                name=name if sharing[name] == 1 else f"{name}/{entry['NodeID'][:6]}",
                cpus=int(resources.get("CPU", 0)),
                gpus=int(resources.get("GPU", 0)),
                labels=dict(entry.get("Labels") or {}),
                node_id=entry["NodeID"],
                object_store_bytes=int(resources.get("object_store_memory", 0)),
            )
        )
    return nodes


def cluster_nodes() -> list[Node]:
    """The nodes of the cluster that this process is connected to."""
    return nodes_of(ray.nodes())


def selector_error(selector: Mapping[str, str]) -> str | None:
    """What is wrong with a label selector's syntax. Ray itself would only never find a node."""
    if spaced := [value for value in selector.values() if " " in value]:
        return f"{spaced[0]!r} holds a space, which Ray takes for a part of the label; write in(a,b)"
    found: str | None = validate_label_selector(dict(selector))
    return found


def is_autoscaled(nodes: Sequence[Node]) -> bool:
    """Whether nodes come when they are asked for, beyond those that are up.

    Each Ray has an autoscaler that looks on; those that may start nodes are told apart by what they say of them.
    """
    if config := state.get_cluster_config():
        return any(group.max_count == -1 or group.max_count > group.min_count for group in config.node_group_configs)
    in_groups = any(RAY_NODE_GROUP_KEY in node.labels for node in nodes)
    if is_autoscaler_v2():
        return in_groups
    status = _internal_kv_get(DEBUG_AUTOSCALING_STATUS)
    if status is None:  # it has not looked yet; nodes that were started by hand are in no group
        return in_groups
    report = json.loads(status).get("autoscaler_report") or {}
    kinds = {*report.get("active_nodes", ()), *(report.get("node_type_mapping") or {}).values()}
    return not all(_ONLY_LOOKED_AT.fullmatch(kind) for kind in kinds)


def ask_each(nodes: Sequence[Node], function: Callable[..., Any], *args: Any, timeout_s: float) -> list[Answer]:
    """Run a function on each node at the same time; it reserves nothing, so nothing has to be free there.

    Args:
        nodes: of this cluster.
        function: importable on every node.
        args: what it is given.
        timeout_s: how long all of them may take together.
    """
    remote = ray.remote(num_cpus=0, max_retries=0)(function)
    asked = {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
        asked[remote.options(scheduling_strategy=there).remote(*args)] = node
    answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=timeout_s) if asked else ([], [])
    answers = {asked[ref].node_id: _answer(asked[ref], ref) for ref in answered}
    for ref in silent:
        ray.cancel(ref, force=True)
        answers[asked[ref].node_id] = Answer(asked[ref], error=f"did not answer within {timeout_s:g} s")
    return [answers[node.node_id] for node in nodes]


def _answer(node: Node, ref: Any) -> Answer:
    try:
        return Answer(node, ray.get(ref))
    except ray.exceptions.RayTaskError as error:
        return Answer(node, error=in_a_line(error.cause or error))
    except Exception as error:  # whatever went wrong there
        return Answer(node, error=in_a_line(error))


def in_a_line(error: BaseException) -> str:
    """Its kind and its words."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
