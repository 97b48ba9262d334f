"""Packages of interfaces that PyPI has not, made by the generators that come with the wheels of rclpy, and by a C
compiler: of control_msgs a stand-in with its two gripper actions, and the repository's own vla_ros_msgs. Run as a
program with the name of one, it prints the folder that holds it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
from rosidl_adapter import convert_to_idl
from rosidl_generator_c import generate_c
from rosidl_generator_py import generate_py
from rosidl_generator_type_description import generate_type_hash
from rosidl_typesupport_c import generate_c as generate_typesupport_c
from rosidl_typesupport_fastrtps_c import generate_typesupport_fastrtps_c
from rosidl_typesupport_introspection_c import generate_c as generate_introspection_c

PREFIX = Path(sys.prefix)
HERE = Path(__file__).resolve().parent
PACKAGES = {"control_msgs": HERE / "interfaces" / "control_msgs", "vla_ros_msgs": HERE.parents[1] / "vla_ros_msgs"}
USED = ("action_msgs", "builtin_interfaces", "sensor_msgs", "service_msgs", "std_msgs", "unique_identifier_msgs")
TYPE_SUPPORTS = ("rosidl_typesupport_fastrtps_c", "rosidl_typesupport_introspection_c")
GENERATED = ("rosidl_generator_c", "rosidl_generator_py", "rosidl_typesupport_c", *TYPE_SUPPORTS)


def interfaces(sources: Path) -> list[Path]:
    """Files of messages and actions, relative to ``sources``; messages first, which actions may hold."""
    return [
        path.relative_to(sources) for kind in ("msg", "action") for path in sorted(sources.glob(f"{kind}/*.{kind}"))
    ]


def generate(sources: Path, work: Path, package: Path) -> None:
    """Python files below ``package``, C and C++ files below ``work`` and the package's name."""
    name = package.name
    idls = [convert_to_idl(sources, name, path, work) for path in interfaces(sources)]
    idl_tuples = [f"{work}:{idl.relative_to(work)}" for idl in idls]
    described = [f"{idl.relative_to(work)}:{work / name / idl.relative_to(work).with_suffix('.json')}" for idl in idls]

    def arguments(template: str, output: Path) -> str:
        file = work / f"{template}.json"
        given = {
            "package_name": name,
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

    generate_type_hash(arguments("rosidl_generator_type_description", work / name))
    generate_c(arguments("rosidl_generator_c", work / name))
    generate_typesupport_fastrtps_c(arguments("rosidl_typesupport_fastrtps_c", work / name))
    # Its files have the names of rosidl_generator_c's.
    generate_introspection_c(arguments("rosidl_typesupport_introspection_c", work / "introspection" / name))
    generate_typesupport_c(arguments("rosidl_typesupport_c", work / name), list(TYPE_SUPPORTS))
    (work / name / "msg").mkdir(exist_ok=True)
    for folder in ("msg", "action"):
        (package / folder).mkdir(parents=True, exist_ok=True)
    generate_py(arguments("rosidl_generator_py", package), ["rosidl_typesupport_c"])
    for made in GENERATED:  # what CMake would make of these
        for file in (PREFIX / "share" / made / "resource").glob("*visibility_control.h.in"):
            text = re.sub("@PROJECT_NAME(_UPPER)?@", lambda found: name.upper() if found[1] else name, file.read_text())
            (work / name / "msg" / file.stem).write_text(text)
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

    first, *others = (f"lib{package.name}__{support}.so" for support in TYPE_SUPPORTS)
    linked(first, *objects)
    made = [linked(other, package / first) for other in others]
    extension = f"{package.name}_s__rosidl_typesupport_c{sysconfig.get_config_var('EXT_SUFFIX')}"
    linked(extension, *map(compiled, package.rglob("*.c")), package / first, *made)


def interface_package(name: str) -> Path:
    """The folder that holds a package of ``PACKAGES``, for ``sys.path``: made once in an environment, for its ROS, its
    Python and these definitions."""
    sources = PACKAGES[name]
    texts = b"".join((sources / path).read_bytes() for path in interfaces(sources))
    folder = PREFIX / "interfaces" / f"{name}-{hashlib.sha256(texts).hexdigest()[:12]}"
    folder.parent.mkdir(exist_ok=True)
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=folder.parent) as made:
                work, package = Path(made) / "work", Path(made) / "made" / name
                generate(sources, work, package)
                compile_and_link(work, package)
                package.parent.rename(folder)
    return folder


if __name__ == "__main__":
    with redirect_stdout(sys.stderr):  # the generators tell what they do
        made = interface_package(sys.argv[1])
    print(made)
