"""The report's second half: bag by bag, takeovers, worst moments, events."""

from __future__ import annotations

from html import escape

import numpy as np

from vla_ros.replay.averages import mean_of_known
from vla_ros.replay.records import DRIVERS
from vla_ros.replay.report.bags import (
    Bag,
    NumberedMoment,
    chunk_errors,
    grouped_events,
    has_commands,
    moments_of,
    ranges_of,
    short_names,
)
from vla_ros.replay.report.content import Intervention, PolicyResult, ReportInput
from vla_ros.replay.report.html import (
    POLICY_LETTERS,
    box_key,
    legend,
    line_key,
    none,
    policy_letter,
    section,
    table,
    wide,
)
from vla_ros.replay.report.moments import image_figure, moment_plots
from vla_ros.replay.report.svg import percent, plain
from vla_ros.replay.report.timeline import EVENT_NAMES, event_symbol, joint_curves, timeline

MAX_BAGS_DRAWN, MAX_EVENT_ROWS = 6, 100
EVENT_MEANINGS = {
    "watchdog": "a watchdog would stop or brake",
    "limit": "a limit would bound the command",
    "processor": "something was refused",
}
TIMELINE_NOTE = (
    "From top to bottom: the instruction, who drove when the bag was recorded, what would have stopped or bounded "
    "the robot now, and how far each chunk lies from the recording. Rest the pointer on anything for its numbers."
)
CURVES_NOTE = (
    "What the robot did and what it would be told now. Thin fans are the policy's plans, each from the moment it "
    "was made: where they leave the black line, the policy wanted something else. Shaded: the policy did not drive."
)
INTERVENTIONS_NOTE = (
    "Whenever a human took over, and how the policy's plans for those moments differ from what the human did."
)
MOMENTS_NOTE = (
    "The chunks furthest from the recording, with what the cameras saw when each was made. In the charts, time 0 is "
    "the camera image; the name of the joint that is furthest off is underlined."
)
EVENTS_NOTE = (
    "Those that say the same but for their numbers are counted together; of limits, every command that was bounded."
)


def bags(content: ReportInput, found: tuple[Bag, ...]) -> str:
    """All in a table where they are several; those with the largest errors drawn."""
    if len(found) == 1:
        return section("Timeline", TIMELINE_NOTE, _bag_charts(content, found[0]))
    note, drawn = f"{len(found)} bags, in the order they were given.", found
    if len(found) > MAX_BAGS_DRAWN:
        drawn = tuple(sorted(found, key=lambda bag: -_largest_error(bag))[:MAX_BAGS_DRAWN])
        note += f" Below are the {MAX_BAGS_DRAWN} of them with the largest error, the largest first."
    parts = [_bag_table(content, found)]
    for bag in drawn:
        parts.append(
            section(
                f"Timeline of {bag.name}", TIMELINE_NOTE if bag is drawn[0] else "", _bag_charts(content, bag), level=3
            )
        )
    return section("Bags", note, *parts)


def _largest_error(bag: Bag) -> float:
    errors = [error for error in _errors_of(bag) if np.isfinite(error)]
    return max(errors, default=-1.0)


def _errors_of(bag: Bag) -> list[float]:
    """Over the compared chunks, for each policy."""
    shown = []
    for replay in bag.replays:
        is_compared = np.array([chunk.driver in bag.compared_drivers for chunk in replay.chunks], bool)
        shown.append(float(mean_of_known(chunk_errors(replay)[is_compared])))
    return shown


def _bag_table(content: ReportInput, found: tuple[Bag, ...]) -> str:
    heads = ["Bag", "Length", "Episodes", "Takeovers"]
    for i in range(len(content.policies)):
        who = f"{policy_letter(i)}<br>" if len(content.policies) > 1 else ""
        heads += [f"{who}Chunks", "Error, of range", "Events"]
    rows = []
    for bag in found:
        first = bag.first
        row = [escape(bag.name), f"{bag.length_s:.1f} s", str(len(first.episodes)), str(len(first.interventions))]
        for replay, error in zip(bag.replays, _errors_of(bag), strict=True):
            num_events = sum(event.num_times for event in replay.events)
            row += [str(len(replay.chunks)), percent(error), str(num_events)]
        rows.append(row)
    return table(heads, rows, numbers=range(1, len(heads)))


def _bag_charts(content: ReportInput, bag: Bag) -> str:
    two = len(content.policies) > 1
    whose = [f"{POLICY_LETTERS[i]}'s " if two else "the policy's " for i in range(len(content.policies))]
    events = [(event_symbol(kind, 13, 7, name), EVENT_MEANINGS[kind]) for kind, name in EVENT_NAMES.items()]
    heading = "Joint by joint" if len(content.policies[0].replays) == 1 else f"Joints of {bag.name}"
    found_modes = {span.label for span in bag.first.modes}
    modes = [(box_key(f"mode mode-{mode}"), mode) for mode in DRIVERS if mode and mode in found_modes]
    chunks = [(line_key(f"curve policy{i}"), f"{who}error") for i, who in enumerate(whose)]
    faint = [(line_key("curve policy0 faint"), "not counted: another drove")] if _has_others(bag) else []
    compared = (
        ""
        if has_commands(bag.first)
        else none("The bag holds no commands: chunks are compared with the measured motion.")
    )
    curves = [(line_key("curve recorded"), "commanded then"), (line_key("curve measured"), "measured then")]
    curves += [(line_key(f"curve broad policy{i}"), f"{who}commands now") for i, who in enumerate(whose)]
    curves += [(_fan_key(i), f"{who}plans") for i, who in enumerate(whose)]
    return (
        compared
        + legend([*modes, *events, *chunks, *faint])
        + wide(timeline(bag))
        + section(heading, CURVES_NOTE, legend(curves), wide(joint_curves(bag)), level=3)
    )


def _has_others(bag: Bag) -> bool:
    return any(chunk.driver not in bag.compared_drivers for replay in bag.replays for chunk in replay.chunks)


def _fan_key(i: int) -> str:
    return f'<path class="fan policy{i}" d="M1 12Q8 10 14 4M7 11Q15 10 20 5M13 10Q20 9 25 7"/>'


def interventions(content: ReportInput) -> str:
    """One row for each time a human drove, with a sentence for each policy."""
    two, short = len(content.policies) > 1, _short_bags(content)
    found = content.policies[0].interventions
    if not found:
        return section("When a human took over", "", none("No human took over in these bags, as far as they say."))
    several = len(short) > 1
    heads = ["When", *(["Bag"] if several else [])]
    heads += [policy_letter(i) if two else "What the policy would have done" for i in range(len(content.policies))]
    rows = []
    for k, one in enumerate(found):
        when = f"A human took over at {one.start_s:.1f} s for {one.duration_s:.1f} s"
        bag = [escape(short[one.bag])] if several else []
        rows.append([when, *bag, *(escape(_instead(policy, policy.interventions[k])) for policy in content.policies)])
    return section("When a human took over", INTERVENTIONS_NOTE, table(heads, rows))


def _instead(policy: PolicyResult, one: Intervention) -> str:
    first = policy.replays[0]
    fractions = one.mae_by_joint / ranges_of(first)
    if not one.num_chunks:
        return "The policy made no plan in that time."
    if not np.isfinite(fractions).any():
        return f"The policy made {one.num_chunks} plans, and nothing was recorded to compare them with."
    joint = int(np.nanargmax(fractions))
    offset = float(one.offset_by_joint[joint])
    side = (
        f"; its plans lie {plain(abs(offset))} {'higher' if offset > 0 else 'lower'} there on average" if offset else ""
    )
    most = f"{percent(float(fractions[joint]))} ({plain(float(one.mae_by_joint[joint]))})"
    return (
        f"The policy would have been {percent(float(mean_of_known(fractions)))} of range away from the human, most in "
        f"{first.joint_names[joint]}: {most}{side}. ({one.num_chunks} plans)"
    )


def _short_bags(content: ReportInput) -> dict[str, str]:
    paths = [replay.bag for replay in content.policies[0].replays]
    return dict(zip(paths, short_names(paths), strict=True))


def moments(content: ReportInput) -> str:
    """Camera images beside both trajectories."""
    found = moments_of(content)
    if not found:
        return section("Worst moments", "", none("No chunk could be compared with recorded commands."))
    two = len(content.policies) > 1
    whose = [f"{POLICY_LETTERS[i]}'s" if two else "the policy's" for i in range(len(content.policies))]
    keys = [(line_key(f"curve wide policy{i}"), f"{who} plan") for i, who in enumerate(whose)]
    keys += [(line_key("curve recorded"), "commanded then"), (line_key("curve measured"), "measured then")]
    return section("Worst moments", MOMENTS_NOTE, legend(keys), *(_moment(content, one) for one in found))


def _moment(content: ReportInput, one: NumberedMoment) -> str:
    policy, moment = content.policies[one.policy], one.moment
    short = _short_bags(content)
    replay = next(replay for replay in policy.replays if replay.bag == moment.bag)
    at_s = (moment.chunk.header_ns - replay.start_ns) / 1e9
    where = f" of {short[moment.bag]}" if len(short) > 1 else ""
    who = f"{POLICY_LETTERS[one.policy]}, " if len(content.policies) > 1 else ""
    title = f"{one.number}. {who}{at_s:.1f} s{where}: {percent(moment.error)} of range off"
    task = replay.episodes[moment.chunk.episode].label if moment.chunk.episode < len(replay.episodes) else ""
    drove = f"{moment.chunk.driver} drove" if moment.chunk.driver else "the bag does not say who drove"
    said = f"“{task}”, {drove}." if task else f"No instruction, {drove}."
    images = "".join(image_figure(image, (image.time_ns - replay.start_ns) / 1e9) for image in moment.images)
    return (
        f'<div class="moment" id="moment-{one.number}"><h3>{escape(title)}</h3><p class="note">{escape(said)}</p>'
        f'<div class="seen"><div class="images">{images or none("No camera image at hand.")}</div>'
        f"{wide(moment_plots(replay, moment.chunk, one.policy))}</div></div>"
    )


def events(content: ReportInput, found: tuple[Bag, ...]) -> str:
    """What is wrong with the bags, and every event."""
    two = len(content.policies) > 1
    problems = [(bag.name, line) for bag in found for line in dict.fromkeys(p for r in bag.replays for p in r.problems)]
    shown = "".join(f"<li>{escape(f'{name}: {line}' if len(found) > 1 else line)}</li>" for name, line in problems)
    first = section(
        "Problems with the bags", "", f"<ul>{shown}</ul>" if shown else none("None: everything in them could be used.")
    )
    groups = [group for bag in found for group in grouped_events(bag)]
    if not groups:
        return first + section(
            "Events", "", none("No limit, no watchdog and no refusal: nothing would have stopped the robot.")
        )
    heads = ["What", *(["Bag"] if len(found) > 1 else []), *(["Policy"] if two else []), "Times", "When", "Said"]
    rows = []
    for group in groups[:MAX_EVENT_ROWS]:
        when = f"{group.first_s:.1f} s" + (f" to {group.last_s:.1f} s" if group.last_s > group.first_s else "")
        row = [EVENT_NAMES.get(group.kind, group.kind), *([escape(group.bag)] if len(found) > 1 else [])]
        row += [policy_letter(group.policy)] if two else []
        rows.append([*row, str(group.num_times), when, escape(group.line)])
    left_out = f" The first {MAX_EVENT_ROWS} of {len(groups)} kinds are shown." if len(groups) > MAX_EVENT_ROWS else ""
    return first + section("Events", EVENTS_NOTE + left_out, table(heads, rows, numbers=(heads.index("Times"),)))
