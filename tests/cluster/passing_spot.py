"""A cloud of processes whose spot machines run out after the first, for Ray's autoscaler in test_autoscaling.py."""

from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.tags import TAG_RAY_USER_NODE_TYPE


class PassingSpot(FakeMultiNodeProvider):
    """Ray's own provider for tests, but for the spot machines."""

    num_spot = 0

    def create_node_with_resources_and_labels(
        self, node_config: Any, tags: dict[str, str], count: int, resources: Any, labels: Any
    ) -> None:
        """Start nodes, at most one of them spot."""
        if tags[TAG_RAY_USER_NODE_TYPE] == "gpu_spot":
            self.num_spot += 1
            if self.num_spot > 1:
                raise NodeLaunchException("InsufficientInstanceCapacity", "no spot machine is to be had", None)
        super().create_node_with_resources_and_labels(node_config, tags, count, resources, labels)
