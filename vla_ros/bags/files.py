"""Which files a bag consists of: what ``metadata.yaml`` says, and what lies there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from vla_ros.bags.compression import COMPRESSED_SUFFIX
from vla_ros.strict import explained, parse_yaml, read_text

MCAP_SUFFIX, SQLITE_SUFFIX = ".mcap", ".db3"
_INFORMATION = "rosbag2_bagfile_information"


@dataclass(frozen=True)
class BagFiles:
    """The storage files of a bag in their order, the ROS distribution where it says so, and what is wrong with both."""

    paths: tuple[Path, ...]
    distribution: str
    problems: tuple[str, ...]


@dataclass(frozen=True)
class FoundBags:
    """The bags in a folder, as ``BagReader`` takes them, and the names of what else lies there."""

    bags: tuple[Path, ...]
    others: tuple[str, ...]


def find_bags(*paths: Path) -> FoundBags:
    """Every bag in ``paths``, folders and the folders in them, in the order of their names, each once; a path may be a
    bag itself, or a storage file of one.

    Storage files without a metadata.yaml are one bag where they are named for their folder, as rosbag2 does it, else
    each is one. Hidden folders are skipped. Raises ValueError where a path is neither a folder nor a storage file.
    """
    bags: list[Path] = []
    others: list[str] = []
    for path in paths:
        if path.is_file() and is_storage(path):
            bags.append(path)
        elif path.is_dir():
            _look_for_bags(path, path if len(paths) == 1 else path.parent, bags, others)
        else:
            what = "is no bag" if path.exists() else "does not exist"
            raise ValueError(f"{path} {what}; expected a rosbag2 bag, an .mcap or .db3 file, or a folder of such")
    return FoundBags(tuple({path.resolve(): path for path in bags}.values()), tuple(others))


def bags_in(path: Path) -> tuple[Path, ...]:
    """The bags in a folder of bags, in the order of their names; of anything else the path itself."""
    if not path.is_dir() or (path / "metadata.yaml").exists() or any(map(is_storage, path.iterdir())):
        return (path,)
    return find_bags(path).bags or (path,)


def _look_for_bags(folder: Path, root: Path, bags: list[Path], others: list[str]) -> None:
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        others.append(f"{folder} ({error.strerror or error})")
        return
    files = [path for path in entries if path.is_file() and is_storage(path)]
    is_bag = bool(files) and all(path.name.startswith((f"{folder.name}_", f"{folder.name}.")) for path in files)
    if is_bag or folder / "metadata.yaml" in entries:
        bags.append(folder)
        return
    for path in entries:
        num_found = len(bags) + len(others)
        if path in files:
            bags.append(path)
        elif path.is_dir() and not path.name.startswith("."):
            _look_for_bags(path, root, bags, others)
        if num_found == len(bags) + len(others):
            others.append(str(path.relative_to(root)))


def find_files(path: Path) -> BagFiles:
    """The files of a bag, which is a folder, or a file of one.

    Raises ValueError where it has no storage file.
    """
    if path.is_file() and is_storage(path):
        return BagFiles((path,), "", ())
    if not path.is_dir():
        what = "is neither an .mcap nor a .db3 file" if path.exists() else "does not exist"
        raise ValueError(f"bag {path}: it {what}; give the folder of a rosbag2 bag, or a file of one")
    found = sorted((file for file in path.iterdir() if file.is_file() and is_storage(file)), key=_in_order)
    problems = []
    try:
        information = _read_metadata(path / "metadata.yaml")
        # Once each, or a message would be read as often as its file is listed.
        listed = list(dict.fromkeys(path / PurePath(name).name for name in information["relative_file_paths"]))
        distribution = str(information.get("ros_distro") or "")
    except ValueError as error:
        problems.append(f"bag {path}: {error}; its files are read in the order of their names")
        listed, distribution = [], ""
    problems += [f"bag {path}: {file.name} of its metadata.yaml is missing" for file in listed if file not in found]
    paths = (*(file for file in listed if file in found), *(file for file in found if file not in listed))
    if not paths:
        raise ValueError(f"bag {path}: it has neither an .mcap nor a .db3 file; give the folder of a rosbag2 bag")
    return BagFiles(paths, distribution, tuple(problems))


def is_storage(path: Path) -> bool:
    """Whether a file's name is that of a storage file."""
    return storage_suffix(path) in (MCAP_SUFFIX, SQLITE_SUFFIX)


def storage_suffix(path: Path) -> str:
    """``.mcap``, ``.db3`` or whatever it is, also of a file that is compressed as a whole."""
    return Path(path.stem).suffix if path.suffix == COMPRESSED_SUFFIX else path.suffix


def _read_metadata(path: Path) -> dict[str, Any]:
    missing = explained("its metadata.yaml cannot be read (", OSError, after=")")
    with missing, explained("its metadata.yaml is not valid YAML (", after=")"):
        document = parse_yaml(read_text(path, errors="replace"))
    information = document.get(_INFORMATION) if isinstance(document, dict) else None
    names = information.get("relative_file_paths") if isinstance(information, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"its metadata.yaml has no list {_INFORMATION}.relative_file_paths")
    return information


def _in_order(path: Path) -> list[int | str]:
    """Names by the numbers in them: bag_2 before bag_10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]
