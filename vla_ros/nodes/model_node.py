"""``vla_model``: one policy on one device. Requests in, actions out; knows nothing of robots.

What imports torch is imported in *configure*: that takes seconds, and the node is heard by then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diagnostic_msgs.msg import DiagnosticStatus

from vla_ros import topics
from vla_ros.nodes.params import ModelNodeParams
from vla_ros.ros.declare import declare, guard, read
from vla_ros.ros.endpoints import make_publisher, make_steady_timer
from vla_ros.ros.managed import ManagedNode, Role, run_managed
from vla_ros.ros.problems import INFERENCE, Problems
from vla_ros.ros.reports import diagnostics, distribution_values, make_status
from vla_ros.share import policy_dir
from vla_ros.wire import read_link_key

if TYPE_CHECKING:
    from vla_ros.nodes.model_worker import ModelWorker, RunningPolicy

STATUS_PERIOD_S = 0.1
DIAGNOSTICS_PERIOD_S = 1.0


class ModelNode(ManagedNode):
    """Exists from the first moment, so that it can say what is wrong; has a policy from *configure* on."""

    def __init__(self) -> None:
        super().__init__(topics.MODEL_NODE)
        declare(self, ModelNodeParams)
        guard(self, ModelNodeParams, lambda: self.is_configured)
        self._problems = Problems(self.get_logger())
        self._worker: ModelWorker | None = None
        self._policy: RunningPolicy | None = None
        self._status_publisher = make_publisher(self, topics.STATUS.private)
        self._diagnostics_publisher = make_publisher(self, topics.DIAGNOSTICS)
        # In a thread of its own: it goes on while a transition keeps this node's own busy.
        self._reports = Role(self, "status")
        make_steady_timer(self._reports.node, STATUS_PERIOD_S, self._publish_status)
        make_steady_timer(self._reports.node, DIAGNOSTICS_PERIOD_S, self._publish_diagnostics)
        self._reports.start()

    def destroy_node(self) -> None:
        self._reports.stop()
        super().destroy_node()

    def configure(self) -> None:
        from vla_ros.nodes import model_worker

        params = read(self, ModelNodeParams)
        load = model_worker.loader(params, policy_dir(params.policy), self.get_logger().warning)
        key = read_link_key(params.link_key_file)
        self._worker = model_worker.ModelWorker(self, load, self._problems, key)
        self._policy = self._worker.start_sync()

    def activate(self) -> None:
        assert self._worker is not None
        self._worker.serve(True)

    def deactivate(self) -> None:
        if self._worker is not None:
            self._worker.serve(False)

    def cleanup(self) -> None:
        worker, self._worker, self._policy = self._worker, None, None
        if worker is not None:
            worker.stop()

    def _status(self, with_timings: bool) -> DiagnosticStatus:
        problems, policy = self._problems.current(), self._policy
        if policy and policy.runner.trouble:
            problems[INFERENCE] = policy.runner.trouble
        if self.failure:
            level, message = DiagnosticStatus.ERROR, self.failure
        elif not self.is_active:
            level, message = DiagnosticStatus.WARN, "configured, not active"
        else:
            # Where an inference failed, no result comes: the policy node need not wait for one.
            level = DiagnosticStatus.WARN if INFERENCE in problems else DiagnosticStatus.OK
            message = "; ".join(["active", *problems.values()])
        values = {"digest": policy.digest if policy else "", "device": policy.device if policy else ""}
        if policy and policy.runner.waits_for:
            message += f"; each inference waits for {policy.runner.waits_for}"
        if policy and policy.runner.uncaptured:
            shapes = policy.runner.uncaptured
            message += f"; {len(shapes)} shape(s) of request run slowly, the first was {shapes[0]}"
        if policy and policy.runner.not_compiled:
            message += f"; {policy.runner.not_compiled}"
        if with_timings and self._worker is not None:
            for name, distribution in self._worker.timings_ms.copy().items():
                values |= distribution_values(f"{name}_ms", distribution)
        return make_status(self, "inference", level, message, values)

    def _publish_status(self) -> None:
        self._status_publisher.publish(self._status(with_timings=False))

    def _publish_diagnostics(self) -> None:
        self._diagnostics_publisher.publish(diagnostics(self, self._status(with_timings=True)))


def main(args: list[str] | None = None) -> int:
    """Run the node until it is told to stop."""
    return run_managed(ModelNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
