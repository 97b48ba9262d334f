"""Observations out of a recording, by the rule of the live node."""

from __future__ import annotations

from vla_ros.observing.observe import Match, Observer
from vla_ros.recordings.events import BagEvent, FrameEvent, JointsEvent, TaskEvent


def observe_event(observer: Observer, event: BagEvent) -> Match | None:
    """Tell ``observer`` what ``event`` says; returns the observation that there is since then, as ``Observer.see``."""
    match event:
        case FrameEvent():
            return observer.see(event.frame, event.received_ns)
        case JointsEvent():
            observer.sensors.joints.add(event.sample)
        case TaskEvent():
            observer.sensors.task = event.task
    return None
