"""Who may import whom: read from the source, lazy imports too, and seen in a fresh interpreter."""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from importlib.util import find_spec
from pathlib import Path

import pytest
from layer_table import MAY_IMPORT

import vla_ros

PACKAGE = Path(vla_ros.__file__).parent
MODULES = {
    ".".join((PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

# These go by what any policy is: no family's folder is named in them, the registry's strings apart.
KNOWS_NO_FAMILY = (
    "vla_ros.policies",
    "vla_ros.execution",
    "vla_ros.audit",
    "vla_ros.bench.inference",
    "vla_ros.replay",
    "vla_ros.nodes",
    "vla_ros.ros",
)
# Torch-free although it lies among the policies: the robot's computer needs no model library.
PROCESSOR_MAY_IMPORT = {
    "numpy",
    "cv2",
    "PIL",
    "tokenizers",
    "hydra",
    "omegaconf",
    "yaml",
    "safetensors",
    "vla_ros.robot",
    "vla_ros.types",
    "vla_ros.spaces",
    "vla_ros.transforms",
    "vla_ros.policies",
}
# ROS lives here and nowhere else.
ROS_LAYERS = (
    "vla_ros.ros",
    "vla_ros.nodes",
    "vla_ros.bench.control",
    "vla_ros.check.found",
    "vla_ros.check.live",
    "vla_ros.demo",
    "vla_ros.record",
    "vla_ros.sim.fake_driver_node",
    "vla_ros.sim.node",
    "vla_ros.sim.robot",
    "vla_ros.tasks.node",
    "vla_ros.teleop",
    "vla_ros.view.cameras",
    "vla_ros.view.demo",
    "vla_ros.view.hearing",
    "vla_ros.view.node",
    "vla_ros.view.operator",
    "vla_ros.view.params",
)
EVERYTHING = (*ROS_LAYERS, "vla_ros.cli")
# From the ground up: a room imports those before it. The table above says which of them.
ORDER = (
    "share start strict units interpolate topics types urdf wire messages outputs robot hands bags observing runtime "
    "spaces recordings transforms policies execution audit replay ros sim training record teleop tasks check demo view "
    "nodes bench cli"
).split()
MAX_LINES = 400
MAX_MEDIAN_LINES = 150
# Itself nothing but standard library.
ANYWHERE = {"vla_ros.strict", "vla_ros.units"}
# Time and the work of other threads reach the runtime as arguments only.
NOT_IN_RUNTIME = {"time", "datetime", "threading", "queue", "asyncio", "concurrent", "multiprocessing"}
ROS_PACKAGES = {"rclpy", "launch", "launch_ros", "ament_index_python", "cv_bridge", "std_srvs", "builtin_interfaces"}


def layer_of(module: str) -> str:
    """The layer of a module; its own name, which no table allows anything, where it is in none."""
    return max((layer for layer in (*MAY_IMPORT, *EVERYTHING) if is_inside(module, layer)), key=len, default=module)


def is_inside(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def is_ros(module: str) -> bool:
    root = module.partition(".")[0]
    return root in ROS_PACKAGES or root.endswith(("_msgs", "_interfaces"))


def imports_of(path: Path, with_types: bool = True) -> set[str]:
    """Every module that a file names in an import, inside functions too, and ``with_types`` those for type checkers
    alone."""
    found = set()
    tree = ast.parse(path.read_text(), str(path))
    branches = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    never_run = {inner for branch in branches for line in branch.body for inner in ast.walk(line)}
    for node in ast.walk(tree):
        if not with_types and node in never_run:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import; write it out"
            full_names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in full_names}
    return found


def may_import(module: str, imported: str) -> bool:
    root = imported.partition(".")[0]
    layer = layer_of(module)
    if layer == "vla_ros.runtime" and root in NOT_IN_RUNTIME:
        return False
    if root in sys.stdlib_module_names or imported in ANYWHERE:
        return True
    if layer in EVERYTHING:
        return layer in ROS_LAYERS or not is_ros(imported)
    if module.endswith(".processor"):
        return any(is_inside(imported, allowed) for allowed in PROCESSOR_MAY_IMPORT)
    return is_inside(imported, layer) or any(is_inside(imported, allowed) for allowed in MAY_IMPORT.get(layer, ()))


def family_of(module: str) -> str:
    """The folder of the family that a module is part of; empty for all others."""
    return next((folder for folder in family_folders() if is_inside(module, folder)), "")


def family_folders() -> set[str]:
    """A family's folder is one in which a policy, its processor and its configuration lie together."""
    folders = {module.rpartition(".")[0] for module in MODULES if module.endswith(".policy")}
    return {folder for folder in folders if {f"{folder}.processor", f"{folder}.config"} <= MODULES.keys()}


def loaded_by(modules: list[str]) -> set[str]:
    """The top-level packages that a fresh interpreter has loaded after importing ``modules``."""
    imports = "; ".join(f"import {module}" for module in modules)
    code = f"import sys; {imports}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    path = str(PACKAGE.parent)
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {path!r}); {code}"], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def modules_inside(*packages: str) -> list[str]:
    return [module for module in MODULES if any(is_inside(module, package) for package in packages)]


def test_every_module_imports_only_what_its_layer_may() -> None:
    refused = [
        f"{module} imports {imported}, which layer {layer_of(module)} may not"
        for module, path in MODULES.items()
        for imported in sorted(imports_of(path))
        if not may_import(module, imported)
    ]
    assert not refused, "\n".join(refused)


def test_no_family_is_imported_but_by_itself_and_by_what_is_made_for_it() -> None:
    assert "vla_ros.policies.pi" in family_folders()
    named = [
        f"{module} imports {imported}"
        for module in modules_inside(*KNOWS_NO_FAMILY)
        for imported in sorted(imports_of(MODULES[module]))
        if family_of(imported) not in ("", family_of(module))
    ]
    assert not named, "\n".join(named)


def test_every_layer_of_the_table_exists() -> None:
    assert {layer for layer in (*MAY_IMPORT, *EVERYTHING) if layer not in MODULES} == set()


@pytest.mark.parametrize(
    "module, imported",
    [
        ("vla_ros.runtime.loop", "torch"),
        ("vla_ros.runtime.loop", "time"),
        ("vla_ros.runtime.loop", "rclpy"),
        ("vla_ros.policies.processor", "torch"),
        ("vla_ros.policies.pi.policy", "transformers"),
        ("vla_ros.policies.act.policy", "lerobot.policies"),
        ("vla_ros.execution.runner", "rclpy"),
        ("vla_ros.execution.runner", "std_msgs.msg"),
        ("vla_ros.sim.world", "rclpy"),
        ("vla_ros.training.run", "vla_ros.sim.scene"),
        ("vla_ros.cli.demo", "rclpy"),
        ("vla_ros.messages.joints", "cv_bridge"),
        ("vla_ros.recordings.feed", "cv_bridge"),
    ],
)
def test_the_table_refuses_what_the_design_forbids(module: str, imported: str) -> None:
    assert not may_import(module, imported)


def test_the_runtime_and_all_below_it_load_neither_torch_nor_ros() -> None:
    low = (
        "vla_ros.runtime",
        "vla_ros.types",
        "vla_ros.robot",
        "vla_ros.wire",
        "vla_ros.outputs",
        "vla_ros.messages",
        "vla_ros.spaces",
        "vla_ros.transforms",
    )
    loaded = loaded_by(modules_inside(*low))
    assert not {name for name in loaded if is_ros(name)} | loaded & {"torch", "transformers", "mujoco"}


def test_every_processor_loads_without_torch_and_ros() -> None:
    processors = [module for module in MODULES if module.endswith(".processor")]
    assert "vla_ros.policies.processor" in processors
    loaded = loaded_by(processors)
    assert not {name for name in loaded if is_ros(name)} | loaded & {"torch", "transformers"}


def test_policies_and_execution_load_without_ros() -> None:
    loaded = loaded_by(modules_inside("vla_ros.policies", "vla_ros.execution"))
    assert not {name for name in loaded if is_ros(name)}


def test_the_nodes_parameters_load_without_torch_and_ros() -> None:
    loaded = loaded_by(["vla_ros.nodes.params"])
    assert not {name for name in loaded if is_ros(name)} | loaded & {"torch", "transformers"}


@pytest.mark.skipif(find_spec("rclpy") is None, reason="needs ROS 2: make setup")
def test_the_robot_side_node_loads_no_torch() -> None:
    assert not loaded_by(["vla_ros.nodes.policy_node"]) & {"torch", "transformers"}


def test_no_import_leads_in_a_circle() -> None:
    """Not even one inside a function."""
    graph = {
        module: (imports_of(path, with_types=False) & MODULES.keys()) - {module} for module, path in MODULES.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" is imported by ".join(error.args[1]))


def test_no_room_imports_one_that_lies_above_it() -> None:
    above = {room: set(ORDER[ORDER.index(room) + 1 :]) for room in ORDER}
    rooms = {module: module.split(".")[1] for module in MODULES if "." in module}
    assert set(rooms.values()) - above.keys() == set(), "a room without a place in ORDER"
    upward = [
        f"{module} imports {imported}"
        for module, room in rooms.items()
        for imported in sorted(imports_of(MODULES[module]) & rooms.keys())
        if rooms[imported] in above[room]
    ]
    assert not upward, "\n".join(upward)


def test_a_file_is_read_in_one_sitting() -> None:
    lines = {module: len(path.read_text().splitlines()) for module, path in MODULES.items()}
    assert {module: count for module, count in lines.items() if count > MAX_LINES} == {}
    assert statistics.median(lines.values()) <= MAX_MEDIAN_LINES
