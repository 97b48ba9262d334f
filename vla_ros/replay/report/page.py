"""A replay as one HTML file that explains itself: no script, nothing loaded from elsewhere."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from vla_ros.recordings.series import mean_of_known
from vla_ros.replay.judge.verdict import Verdict
from vla_ros.replay.report import charts, joints, timeline
from vla_ros.replay.report.bags import Bag, bags_of, grouped_incidents, moments_of
from vla_ros.replay.report.images import Images, jpeg, moment_images
from vla_ros.replay.report.svg import percent, plain
from vla_ros.replay.session import ReplaySession

MAX_BAGS_DRAWN, MAX_INCIDENT_ROWS, MAX_BAGS_NAMED = 6, 100, 3


def write_report(session: ReplaySession, verdict: Verdict, path: Path) -> None:
    """``render_report`` into a file, with the images of the worst moments."""
    path.write_text(render_report(session, verdict, moment_images(session)), encoding="utf-8")


def render_report(session: ReplaySession, verdict: Verdict, images: Images) -> str:
    """The whole page. The same input gives the same text."""
    moments = moments_of(session)
    bags = bags_of(session, moments)
    drawn = bags
    if len(bags) > MAX_BAGS_DRAWN:
        drawn = tuple(sorted(bags, key=_largest_error, reverse=True)[:MAX_BAGS_DRAWN])
    template = _environment().get_template("report.html")
    return template.render(
        title=_title([Path(replay.bag).name for replay in session.replays[0]]),
        verdict=verdict,
        config=session.config,
        latency=_latency(session),
        policies=session.summaries,
        paired=session.paired,
        bags=bags,
        drawn=drawn,
        names={bag.first.bag: bag.name for bag in bags},
        moments=moments,
        images=images,
        incidents=[group for bag in bags for group in grouped_incidents(bag)],
        max_rows=MAX_INCIDENT_ROWS,
    )


def _largest_error(bag: Bag) -> float:
    """Of any policy; of a bag without one, less than all others."""
    return max(float(np.nan_to_num(bag.mean_error(replay), nan=-1.0)) for replay in bag.replays)


def _environment() -> Environment:
    """What the template may call."""
    environment = Environment(
        loader=PackageLoader("vla_ros.replay", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, plain=plain, jpeg=jpeg, mean=mean_of_known, nanargmax=np.nanargmax)
    environment.tests["finite"] = math.isfinite
    environment.globals.update(charts=charts, joints=joints, timeline=timeline)
    return environment


def _title(bags: list[str]) -> str:
    return f"Replay of {', '.join(bags[:MAX_BAGS_NAMED])}{' and more' if len(bags) > MAX_BAGS_NAMED else ''}"


def _latency(session: ReplaySession) -> str:
    given_ms = session.config.settings.latency_ms
    if given_ms is not None:
        return f"{given_ms:g} ms"
    assumed_ms = {replay.assumed_latency_ms for replay in session.replays[0]}
    said = [f"{ms:g} ms, assumed" for ms in sorted(assumed_ms - {None})]
    return " or ".join((*(["as recorded"] if None in assumed_ms else []), *said))
