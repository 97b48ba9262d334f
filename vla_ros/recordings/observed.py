"""Observations out of a recording, by the rule of the live node."""

from __future__ import annotations

from vla_ros.observing.observe import Match, NoObservation, Observer
from vla_ros.recordings.events import Event, FrameEvent, JointsEvent, TaskEvent


def observe_event(observer: Observer, event: Event) -> Match | NoObservation | None:
    """Tell ``observer`` what ``event`` says; returns what comes of an image, as ``Observer.see``."""
    match event:
        case FrameEvent():
            return observer.see(event.frame, event.received_ns)
        case JointsEvent():
            observer.sensors.joints.add(event.sample)
        case TaskEvent():
            observer.sensors.task = event.task
    return None
