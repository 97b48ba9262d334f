"""A robot as the page draws it: links, joints and shapes out of its URDF, in the page's own few words."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from vla_ros.robot import RobotConfig
from vla_ros.strict import quoted
from vla_ros.urdf import MOVING_TYPES, Urdf, link_at, read_urdf
from vla_ros.view.meshes import read_stl

MAX_LINKS, MAX_SHAPES = 500, 1000
MAX_TRIANGLES = 100_000
MIN_ARM_JOINTS = 3
GREY = (0.72, 0.74, 0.77, 1.0)


def draw(robot_file: Path, robot: RobotConfig) -> dict[str, Any]:
    """What the page draws of ``robot``; a URDF that can't be read leaves its joints, and says so."""
    if robot.urdf:
        path = robot_file.parent / robot.urdf
    elif robot.kinematics is not None:
        path = Path(robot.kinematics.urdf)
    else:
        return describe(robot, None, None)
    try:
        return describe(robot, read_urdf(path), path.parent)
    except ValueError as error:
        scene = describe(robot, None, None)
        scene["notes"] = [str(error)]
        return scene


def describe(robot: RobotConfig, urdf: Urdf | None, urdf_folder: Path | None) -> dict[str, Any]:
    """The robot's joints with their limits and, where there is a ``urdf``, its links from the root outwards.

    A link has the number of its ``parent`` (-1: none), where its joint sits (``xyz`` m, ``rpy`` rad), and how that
    moves: ``kind``, ``axis`` and, of a joint of the robot's or one that mimics it, ``column``, ``factor``, ``offset``.
    ``notes`` says in lines for people what can't be drawn.
    """
    joints = [
        {
            "name": joint.name, "lower": joint.lower, "upper": joint.upper, "driven": not joint.fixed,
            "max_velocity": joint.max_velocity,
        }
        for joint in robot.joints
    ]  # fmt: skip
    cameras = [{"name": camera.name, "width": camera.width, "height": camera.height} for camera in robot.cameras]
    scene: dict[str, Any] = {
        "kind": "scene", "name": robot.name, "joints": joints, "cameras": cameras, "links": [], "tips": [], "notes": [],
    }  # fmt: skip
    if urdf is None:
        waits = f"no URDF has come on '{robot.urdf_topic}' yet" if robot.urdf_topic else "the robot file names no URDF"
        scene["notes"].append(f"{waits}: only its joints are shown")
        return scene
    drawing = _Drawing(robot, urdf, urdf_folder, scene["notes"])
    scene["links"] = drawing.links()
    scene["tips"] = _tips(robot, scene["links"])
    return scene


class _Drawing:
    def __init__(self, robot: RobotConfig, urdf: Urdf, folder: Path | None, notes: list[str]) -> None:
        self._columns = {name: column for column, name in enumerate(robot.joint_names)}
        self._elements = {element.get("name", ""): element for element in urdf.root.findall("joint")}
        self._visuals = {link.get("name", ""): link.findall("visual") for link in urdf.root.findall("link")}
        self._colours = {
            material.get("name", ""): colour
            for material in urdf.root.findall("material")
            if (colour := _colour(material)) is not None
        }
        self._folder = folder
        self._notes = notes
        self._num_triangles = self._num_shapes = 0

    def links(self) -> list[dict[str, Any]]:
        """Each behind its parent; what hangs on no root, or too far out, is left out."""
        children: dict[str, list[Element]] = {}
        for joint in self._elements.values():
            children.setdefault(link_at(joint, "parent"), []).append(joint)
        carried = {link_at(joint, "child") for joint in self._elements.values()}
        links = [self._link(name, -1, None) for name in self._visuals if name not in carried]
        for number, link in enumerate(links):  # grows as it goes
            for joint in children.pop(link["name"], []):
                if len(links) >= MAX_LINKS:
                    self._notes.append(f"only {MAX_LINKS} links are drawn")
                    return links
                links.append(self._link(link_at(joint, "child"), number, joint))
        return links

    def _link(self, name: str, parent: int, joint: Element | None) -> dict[str, Any]:
        kind = "fixed" if joint is None else joint.get("type", "")
        xyz, rpy = _pose(joint)
        link = {
            "name": name, "parent": parent, "xyz": xyz, "rpy": rpy,
            "kind": kind if kind in MOVING_TYPES else "fixed", "axis": [1.0, 0.0, 0.0],
            "column": -1, "factor": 1.0, "offset": 0.0,
            "shapes": [shape for visual in self._visuals.get(name, []) if (shape := self._shape(name, visual))],
        }  # fmt: skip
        if joint is not None:
            axis = joint.find("axis")
            link["axis"] = _numbers("" if axis is None else axis.get("xyz", ""), [1.0, 0.0, 0.0])
            mimic = joint.find("mimic")
            leader = joint.get("name", "") if mimic is None else mimic.get("joint", "")
            link["column"] = self._columns.get(joint.get("name", ""), self._columns.get(leader, -1))
            if mimic is not None and joint.get("name", "") not in self._columns:
                (link["factor"],) = _numbers(mimic.get("multiplier", ""), [1.0])
                (link["offset"],) = _numbers(mimic.get("offset", ""), [0.0])
        return link

    def _shape(self, link: str, visual: Element) -> dict[str, Any] | None:
        geometry = visual.find("geometry")
        if geometry is None or not len(geometry) or self._num_shapes >= MAX_SHAPES:
            return None
        self._num_shapes += 1
        form, (xyz, rpy) = geometry[0], _pose(visual)
        material = visual.find("material")
        colour = None if material is None else _colour(material) or self._colours.get(material.get("name", ""))
        shape = {"type": form.tag, "xyz": xyz, "rpy": rpy, "colour": list(colour or GREY)}
        if form.tag == "box":
            shape["size"] = _numbers(form.get("size", ""), [0.02, 0.02, 0.02])
        elif form.tag in ("cylinder", "capsule"):
            (radius,), (length,) = _numbers(form.get("radius", ""), [0.01]), _numbers(form.get("length", ""), [0.05])
            shape["size"] = [radius, length]
        elif form.tag == "sphere":
            shape["size"] = _numbers(form.get("radius", ""), [0.01])
        elif form.tag == "mesh":
            return self._mesh(link, form, shape)
        else:
            return None
        return shape

    def _mesh(self, link: str, form: Element, shape: dict[str, Any]) -> dict[str, Any] | None:
        name = form.get("filename", "")
        path = _find_mesh(name, self._folder)
        try:
            if path is None:
                raise ValueError("it isn't found")
            corners = read_stl(path, MAX_TRIANGLES - self._num_triangles)
        except ValueError as error:
            self._notes.append(f"link '{quoted(link)}': mesh {quoted(name)} is not drawn: {error}")
            return None
        self._num_triangles += len(corners)
        corners = corners * np.array(_numbers(form.get("scale", ""), [1.0, 1.0, 1.0]), np.float32)
        return shape | {"corners": np.round(corners, 4).reshape(-1).tolist()}


def _tips(robot: RobotConfig, links: Sequence[Mapping[str, Any]]) -> list[int]:
    """The links whose paths are worth seeing: the policy's tip, else of each arm the link behind the most joints."""
    if robot.kinematics is not None:
        return [number for number, link in enumerate(links) if link["name"] == robot.kinematics.tip]
    depths: list[int] = []
    movers: list[int] = []
    for link in links:
        parent, moves = link["parent"], link["kind"] != "fixed"
        depths.append((depths[parent] if parent >= 0 else 0) + moves)
        movers.append(link["column"] if moves or parent < 0 else movers[parent])
    arms = [robot.columns(output.joints) for output in robot.outputs if len(output.joints) >= MIN_ARM_JOINTS]
    ends = [[number for number, mover in enumerate(movers) if mover in arm] for arm in arms]
    return [max(end, key=depths.__getitem__) for end in ends if end]


def _find_mesh(name: str, folder: Path | None) -> Path | None:
    """A mesh file by its URI; None where it isn't on this machine."""
    package, _, rest = name.removeprefix("package://").partition("/")
    if name.startswith("package://"):
        prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
        found = [Path(prefix) / "share" / package / rest for prefix in prefixes if prefix]
        found += [above / package / rest for above in (folder.parents if folder is not None else ())]
    elif folder is None and not name.startswith("file://"):
        return None
    else:
        found = [(folder or Path()) / name.removeprefix("file://")]
    return next((path for path in found if path.is_file()), None)


def _pose(element: Element | None) -> tuple[list[float], list[float]]:
    origin = None if element is None else element.find("origin")
    if origin is None:
        return [0.0] * 3, [0.0] * 3
    return _numbers(origin.get("xyz", ""), [0.0] * 3), _numbers(origin.get("rpy", ""), [0.0] * 3)


def _colour(material: Element) -> list[float] | None:
    colour = material.find("color")
    return None if colour is None else _numbers(colour.get("rgba", ""), list(GREY))


def _numbers(text: str, default: list[float]) -> list[float]:
    """As many finite numbers as ``default`` has; ``default`` where there aren't."""
    try:
        values = [float(word) for word in text.split()]
    except ValueError:
        return default
    return values if len(values) == len(default) and all(map(math.isfinite, values)) else default
