"""``vla_model``: one policy on one device. Requests in, actions out; knows nothing of robots."""

from __future__ import annotations

import gc
from functools import partial

import torch
from diagnostic_msgs.msg import DiagnosticStatus

from vla_ros import topics
from vla_ros.execution.capture import free_device_memory
from vla_ros.nodes.model_worker import INFERENCE, ModelWorker, load_served_policy
from vla_ros.nodes.params import ModelNodeParams
from vla_ros.ros.declare import declare, guard, read
from vla_ros.ros.endpoints import make_publisher
from vla_ros.ros.managed import ManagedNode, run_managed
from vla_ros.ros.problems import Problems
from vla_ros.ros.reports import diagnostics, distribution_values, make_status
from vla_ros.share import policy_dir
from vla_ros.wire import read_link_key

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
        self._digest = ""
        self._device = ""
        self._status_publisher = make_publisher(self, topics.STATUS.private)
        self._diagnostics_publisher = make_publisher(self, topics.DIAGNOSTICS)
        self.create_steady_timer(STATUS_PERIOD_S, self._publish_status)
        self.create_steady_timer(DIAGNOSTICS_PERIOD_S, self._publish_diagnostics)

    def configure(self) -> None:
        params = read(self, ModelNodeParams)
        device = _device(params.device)
        torch.set_num_threads(params.num_threads)
        load = partial(
            load_served_policy,
            policy_dir(params.policy),
            device,
            _dtype(params.dtype, device),
            with_guidance=params.strategy == "rtc",
            delay_ms=params.inference_delay_ms,
        )
        self._worker = ModelWorker(self, load, self._problems, read_link_key(params.link_key_file))
        self._digest, self._device = self._worker.start_sync(), str(device)

    def activate(self) -> None:
        assert self._worker is not None
        self._worker.serve(True)

    def deactivate(self) -> None:
        if self._worker is not None:
            self._worker.serve(False)

    def cleanup(self) -> None:
        if self._worker is not None:
            self._worker.stop()
            self._worker = None
            gc.unfreeze()
            free_device_memory()  # else other programs would not get what the policy had
        self._digest = self._device = ""

    def _status(self, with_timings: bool) -> DiagnosticStatus:
        problems = self._problems.current()
        if self.failure:
            level, message = DiagnosticStatus.ERROR, self.failure
        elif not self.is_active:
            level, message = DiagnosticStatus.WARN, "configured, not active"
        else:
            # Where an inference failed, no result comes: the policy node need not wait for one.
            level = DiagnosticStatus.WARN if INFERENCE in problems else DiagnosticStatus.OK
            message = "; ".join(["active", *problems.values()])
        values = {"digest": self._digest, "device": self._device}
        if with_timings and self._worker is not None:
            for name, distribution in self._worker.timings_ms.copy().items():
                values |= distribution_values(f"{name}_ms", distribution)
        return make_status(self, "inference", level, message, values)

    def _publish_status(self) -> None:
        self._status_publisher.publish(self._status(with_timings=False))

    def _publish_diagnostics(self) -> None:
        self._diagnostics_publisher.publish(diagnostics(self, self._status(with_timings=True)))


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("parameter device is 'cuda' and torch sees no GPU; give cpu or auto, or install CUDA torch")
    return torch.device(name)


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        name = "bfloat16" if device.type == "cuda" else "float32"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def main(args: list[str] | None = None) -> int:
    """Run the node until it is told to stop."""
    return run_managed(ModelNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
