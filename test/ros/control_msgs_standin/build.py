"""A stand-in of control_msgs, which PyPI has not: its two gripper actions, made by the generators that come with the
wheels of rclpy, and by a C compiler. Run as a program, it prints the folder that holds it."""

from __future__ import annotations

import fcntl
import json
import re
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from rosidl_adapter import convert_to_idl
from rosidl_generator_c import generate_c
from rosidl_generator_py import generate_py
from rosidl_generator_type_description import generate_type_hash
from rosidl_typesupport_c import generate_c as generate_typesupport_c
from rosidl_typesupport_fastrtps_c import generate_typesupport_fastrtps_c
from rosidl_typesupport_introspection_c import generate_c as generate_introspection_c

PACKAGE = "control_msgs"
PREFIX = Path(sys.prefix)
USED = ("action_msgs", "builtin_interfaces", "sensor_msgs", "service_msgs", "std_msgs", "unique_identifier_msgs")
INTERFACES = ("msg/GripperCommand.msg", "action/GripperCommand.action", "action/ParallelGripperCommand.action")
TYPE_SUPPORTS = ("rosidl_typesupport_fastrtps_c", "rosidl_typesupport_introspection_c")
GENERATED = ("rosidl_generator_c", "rosidl_generator_py", "rosidl_typesupport_c", *TYPE_SUPPORTS)


def generate(work: Path, package: Path) -> None:
    """Python files below ``package``, C and C++ files below ``work/control_msgs``."""
    sources = Path(__file__).parent
    idls = [convert_to_idl(sources, PACKAGE, Path(name), work) for name in INTERFACES]
    idl_tuples = [f"{work}:{idl.relative_to(work)}" for idl in idls]
    described = [
        f"{idl.relative_to(work)}:{work / PACKAGE / idl.relative_to(work).with_suffix('.json')}" for idl in idls
    ]

    def arguments(template: str, output: Path) -> str:
        file = work / f"{template}.json"
        given = {
            "package_name": PACKAGE,
            "output_dir": str(output),
            "template_dir": str(PREFIX / "share" / template / "resource"),
            "idl_tuples": idl_tuples,
            "ros_interface_dependencies": [],
            "target_dependencies": [],
            "include_paths": [f"{used}:{PREFIX / 'share' / used}" for used in USED],
            "type_description_tuples": described,
        }
        file.write_text(json.dumps(given))
        return str(file)

    generate_type_hash(arguments("rosidl_generator_type_description", work / PACKAGE))
    generate_c(arguments("rosidl_generator_c", work / PACKAGE))
    generate_typesupport_fastrtps_c(arguments("rosidl_typesupport_fastrtps_c", work / PACKAGE))
    # Its files have the names of rosidl_generator_c's.
    generate_introspection_c(arguments("rosidl_typesupport_introspection_c", work / "introspection" / PACKAGE))
    generate_typesupport_c(arguments("rosidl_typesupport_c", work / PACKAGE), list(TYPE_SUPPORTS))
    for folder in ("msg", "action"):
        (package / folder).mkdir(parents=True, exist_ok=True)
    generate_py(arguments("rosidl_generator_py", package), ["rosidl_typesupport_c"])
    for made in GENERATED:  # what CMake would make of these
        for file in (PREFIX / "share" / made / "resource").glob("*visibility_control.h.in"):
            text = re.sub(
                "@PROJECT_NAME(_UPPER)?@", lambda name: PACKAGE.upper() if name[1] else PACKAGE, file.read_text()
            )
            (work / PACKAGE / "msg" / file.stem).write_text(text)
    (package / "__init__.py").touch()


def compile_and_link(work: Path, package: Path) -> None:
    """All of it in the library of the first type support; those of the others hold nothing but lead there, as the names
    by which ``rosidl_typesupport_c`` looks them up; and the extension for Python."""
    includes = [work, work / "introspection", np.get_include(), sysconfig.get_paths()["include"]]
    includes += [PREFIX / "include", *(PREFIX / "include").iterdir()]
    flags = ["-O0", "-w", "-fPIC", *(f"-I{include}" for include in includes)]

    def compiled(source: Path) -> Path:
        command = ["g++", "-std=c++17"] if source.suffix == ".cpp" else ["gcc", "-std=gnu11"]
        out = work / (re.sub(r"\W", "_", str(source)) + ".o")
        subprocess.run([*command, *flags, "-c", source, "-o", out], check=True)
        return out

    sources = [*work.rglob("*.c"), *work.rglob("*.cpp")]
    with ThreadPoolExecutor() as pool:
        objects = list(pool.map(compiled, sources))
    names = [f"{used}__{made}" for used in USED for made in GENERATED]
    names += ["rosidl_runtime_c", *TYPE_SUPPORTS, "fastcdr", "rcutils"]
    folder = PREFIX / "lib"
    libraries = [f"-l{name}" for name in names if (folder / f"lib{name}.so").exists()]

    def linked(target: str, *inputs: Path | str) -> Path:
        """Into ``package``; whoever loads it loads all of ``inputs``, used or not."""
        options = [f"-Wl,-soname,{target}", "-Wl,--no-as-needed", f"-Wl,-rpath,$ORIGIN:{folder}", f"-L{folder}"]
        subprocess.run(["g++", "-shared", "-o", package / target, *options, *inputs, *libraries], check=True)
        return package / target

    first, *others = (f"lib{PACKAGE}__{support}.so" for support in TYPE_SUPPORTS)
    linked(first, *objects)
    made = [linked(other, package / first) for other in others]
    extension = f"{PACKAGE}_s__rosidl_typesupport_c{sysconfig.get_config_var('EXT_SUFFIX')}"
    linked(extension, *map(compiled, package.rglob("*.c")), package / first, *made)


def standin() -> Path:
    """The folder that holds ``control_msgs``, for ``sys.path``: made once in an environment, for its ROS and Python."""
    folder = PREFIX / "control_msgs_standin"
    with open(PREFIX / "control_msgs_standin.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=PREFIX) as made:
                work, package = Path(made) / "work", Path(made) / "standin" / PACKAGE
                generate(work, package)
                compile_and_link(work, package)
                package.parent.rename(folder)
    return folder


if __name__ == "__main__":
    print(standin())
