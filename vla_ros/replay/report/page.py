"""A replay as one HTML file that explains itself: no script, nothing loaded from elsewhere."""

from __future__ import annotations

from pathlib import Path

from vla_ros.replay.report.bags import bags_of
from vla_ros.replay.report.content import ReportInput
from vla_ros.replay.report.details import bags, events, interventions, moments
from vla_ros.replay.report.html import page
from vla_ros.replay.report.overview import differences, figures, header, horizon_and_latency, joints


def render_report(content: ReportInput) -> str:
    """The whole page. The same content gives the same text."""
    found = bags_of(content)
    return page(
        content.title,
        (
            header(content),
            figures(content),
            differences(content),
            bags(content, found),
            joints(content),
            horizon_and_latency(content),
            interventions(content),
            moments(content),
            events(content, found),
        ),
    )


def write_report(content: ReportInput, path: Path) -> None:
    """``render_report`` into a file."""
    path.write_text(render_report(content), encoding="utf-8")
