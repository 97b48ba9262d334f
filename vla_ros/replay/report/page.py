"""A replay as one HTML file that explains itself: no script, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from vla_ros.recordings.events import BagEvent
from vla_ros.recordings.series import mean_of_known
from vla_ros.replay.episodes import EpisodePath, recorded_events
from vla_ros.replay.judge.verdict import Verdict
from vla_ros.replay.report import charts, timeline
from vla_ros.replay.report.bags import look_over, moments_of
from vla_ros.replay.report.svg import percent, plain
from vla_ros.replay.session import ReplaySession
from vla_ros.types import Frame
from vla_ros.units import NS_PER_S

MAX_BAGS_DRAWN, MAX_INCIDENT_ROWS, MAX_BAGS_NAMED = 6, 100, 3
MAX_WIDTH, JPEG_QUALITY = 400, 80
Images = Mapping[tuple[str, int], tuple[Frame, ...]]
"""What the cameras saw at the worst moments, by bag and ``header_ns`` of the observation."""


def write_report(session: ReplaySession, verdict: Verdict, path: Path) -> None:
    """``render_report`` into a file, with the images of the worst moments."""
    path.write_text(render_report(session, verdict, moment_images(session)), encoding="utf-8")


def render_report(session: ReplaySession, verdict: Verdict, images: Images) -> str:
    """The whole page. The same input gives the same text."""
    moments = moments_of(session)
    seen = look_over(session, moments, MAX_BAGS_DRAWN, MAX_INCIDENT_ROWS)
    bags = session.summaries[0].bags
    return (
        _environment()
        .get_template("report.html")
        .render(
            title=_title([Path(bag).name for bag in bags]),
            verdict=verdict,
            config=session.config,
            latency=_latency(session.config.settings.latency_ms, seen.assumed_ms),
            policies=session.summaries,
            paired=session.paired,
            seen=seen,
            unused=session.unused,
            names=dict(zip(bags, (row.name for row in seen.rows), strict=True)),
            moments=moments,
            images=images,
        )
    )


def _environment() -> Environment:
    """What the template may call."""
    environment = Environment(
        loader=PackageLoader("vla_ros.replay", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=percent, plain=plain, jpeg=jpeg, mean=mean_of_known, nanargmax=np.nanargmax, nanmax=np.nanmax
    )
    environment.tests["finite"] = math.isfinite
    environment.globals.update(charts=charts, timeline=timeline)
    return environment


def _title(bags: list[str]) -> str:
    return f"Replay of {', '.join(bags[:MAX_BAGS_NAMED])}{' and more' if len(bags) > MAX_BAGS_NAMED else ''}"


def _latency(given_ms: float | None, assumed_ms: Collection[float | None]) -> str:
    if given_ms is not None:
        return f"{given_ms:g} ms"
    said = [f"{ms:g} ms, assumed" for ms in sorted(ms for ms in assumed_ms if ms is not None)]
    return " or ".join((*(["as recorded"] if None in assumed_ms else []), *said))


def moment_images(session: ReplaySession) -> Images:
    """The bags are looked through once more: for each worst moment the image of every camera taken nearest to it."""
    wanted: dict[str, set[int]] = {}
    for summary in session.summaries:
        for moment in summary.worst:
            wanted.setdefault(moment.bag, set()).add(moment.header_ns)
    robot, settings = session.config.robot, session.config.settings
    cameras = {camera.name: camera for camera in robot.cameras}
    # A data set may have no others than those that the policy looks at.
    of_sets = tuple(cameras[name] for name in session.origin.camera_names if name in cameras)
    found = {}
    for bag, times_ns in wanted.items():
        path = session.config.folder / bag
        seen = robot if EpisodePath.of(path) is None else replace(robot, cameras=of_sets)
        try:
            events = recorded_events(path, seen, settings)
        except ValueError:
            continue  # results are merged where the bags are not: the page says that there is no image
        nearest = _nearest_frames(events, times_ns)
        for time_ns in times_ns:
            frames = (nearest.get((time_ns, camera)) for camera in robot.camera_names)
            found[bag, time_ns] = tuple(frame for frame in frames if frame is not None and _is_decodable(frame))
    return found


def _nearest_frames(events: Iterable[BagEvent], times_ns: Collection[int]) -> dict[tuple[int, str], Frame]:
    nearest: dict[tuple[int, str], Frame] = {}
    for event in events:
        frame = event.said
        if not isinstance(frame, Frame):
            continue
        for time_ns in times_ns:
            best = nearest.get((time_ns, frame.camera))
            if best is None or abs(frame.stamp_ns - time_ns) < abs(best.stamp_ns - time_ns):
                nearest[time_ns, frame.camera] = frame
        if event.received_ns > max(times_ns) + NS_PER_S:
            break
    return nearest


def _is_decodable(frame: Frame) -> bool:
    """One that isn't, no policy has seen either."""
    try:
        return frame.image is not None
    except ValueError:
        return False


def jpeg(image: np.ndarray) -> str:
    """``image``, RGB, as base64 of a JPEG no wider than it is looked at."""
    height, width = image.shape[:2]
    if width > MAX_WIDTH:
        size = (MAX_WIDTH, max(1, round(height * MAX_WIDTH / width)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    is_written, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert is_written
    return base64.b64encode(data.tobytes()).decode()
