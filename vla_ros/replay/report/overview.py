"""The report's first half: the verdict, and figures over everything that was replayed."""

from __future__ import annotations

from html import escape

import numpy as np

from vla_ros.replay.report.bags import ranges_of
from vla_ros.replay.report.charts import difference_bar, error_fraction, joint_bar, latency_histogram, step_errors
from vla_ros.replay.report.content import Difference, Errors, PolicyResult, ReportInput
from vla_ros.replay.report.html import (
    POLICY_LETTERS,
    box_key,
    legend,
    line_key,
    none,
    policy_letter,
    policy_name,
    section,
    table,
    wide,
)
from vla_ros.replay.report.svg import percent, plain

NOTHING_COMPARED = "No chunk could be compared with the recording."
SYMBOLS = {"pass": "✓", "fail": "✗"}
WHAT_THIS_IS = (
    "Recorded bags were run through the same code that drives the robot, with the policy in question in place of "
    "whoever drove then. Nothing was sent to a robot. A policy answers each look at the cameras with a chunk: a "
    "short plan of joint positions for the next moments. This page says how far those plans lie from what really "
    "happened."
)
FIGURES_NOTE = "Means over all bags and joints. A joint's range is the distance between its limits in the robot file."
JOINTS_NOTE = (
    "The mean distance for each joint, as a part of its range and, in brackets, in its own unit: rad, or m where it "
    "slides (0.01 rad is 0.6°)."
)
STEPS_NOTE = "How far off the plan is, by how far it looks ahead: a curve that starts low and rises slowly is good."
LATENCY_NOTE = (
    "How long the policy's answers took, counted from the camera image: a narrow hill far to the left is good."
)
DIFFERENCES_NOTE = (
    "Both policies on the same episodes. The dot is B minus A, the line through it where the true difference lies "
    "with 95 % confidence; a line that crosses zero shows no clear difference. Left of zero, B is better."
)


def header(content: ReportInput) -> str:
    """Title, settings, verdict."""
    kind = content.verdict if content.verdict in SYMBOLS else "other"
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in content.reasons)
    settings = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in content.settings.items())
    return (
        f"<h1>{escape(content.title)}</h1><dl>{settings}</dl>"
        f'<div class="verdict {kind}" role="status"><b>{SYMBOLS.get(kind, "!")} {escape(content.verdict.upper())}</b>'
        f'{f"<ul>{reasons}</ul>" if reasons else ""}</div><p class="lead">{escape(WHAT_THIS_IS)}</p>'
    )


def figures(content: ReportInput) -> str:
    """One column for each policy."""
    rows = [
        ("Chunks compared", [f"{policy.num_chunks:,}" for policy in content.policies]),
        (
            "Chunks, off from what the robot was commanded",
            [_off(p, p.from_commands.by_joint) for p in content.policies],
        ),
        ("Chunks, off from where the robot then went", [_off(p, p.from_motion.by_joint) for p in content.policies]),
        (
            "Commands we would have sent, off from the recorded ones",
            [_off(p, p.command_error) for p in content.policies],
        ),
        ("Commands that a limit would have bounded", [f"{p.num_limit_events:,}" for p in content.policies]),
        (
            "Times a watchdog would have stopped or braked the robot",
            [f"{p.num_watchdog_events:,}" for p in content.policies],
        ),
        (
            "Images, answers or teleop messages that were refused",
            [f"{p.num_processor_events:,}" for p in content.policies],
        ),
        ("Half of the answers came within", [_quantile(policy, 50) for policy in content.policies]),
        ("99 of 100 answers came within", [_quantile(policy, 99) for policy in content.policies]),
    ]
    names = [policy.name for policy in content.policies]
    heads = ["", *(policy_name(names, i) + _digest(policy) for i, policy in enumerate(content.policies))]
    shown = table(heads, ([name, *values] for name, values in rows), numbers=range(1, len(heads)))
    return section("Key figures", FIGURES_NOTE, shown)


def _digest(policy: PolicyResult) -> str:
    title = escape(f"digest {policy.digest}", quote=True)
    return f'<br><code title="{title}">{escape(policy.digest[:12])}</code>'


def _off(policy: PolicyResult, by_joint: np.ndarray) -> str:
    fraction = error_fraction(policy, by_joint)
    if not np.isfinite(fraction):
        return "not recorded" if policy.num_chunks else "–"
    return f"{percent(fraction)} of range"


def _quantile(policy: PolicyResult, q: float) -> str:
    return f"{np.percentile(policy.latencies_ms, q):.0f} ms" if len(policy.latencies_ms) else "–"


def differences(content: ReportInput) -> str:
    """B beside A; nothing where there is one policy."""
    if len(content.policies) < 2:
        return ""
    if not content.differences:
        return section("Differences", "", none("The two policies were not compared."))
    heads = ["", policy_letter(0), policy_letter(1), "B − A", "← B is better · B is worse →", "In words"]
    rows = [_difference_row(one, content.differences) for one in content.differences]
    return section("Differences between the two", DIFFERENCES_NOTE, table(heads, rows, numbers=(1, 2, 3)))


def _difference_row(one: Difference, others: tuple[Difference, ...]) -> list[str]:
    alike = [d for d in others if d.unit == one.unit]
    reach = np.array([[d.low, d.high, d.second - d.first] for d in alike])
    widest = float(np.abs(reach[np.isfinite(reach)]).max(initial=0.0)) or 1.0
    unit = f' <span class="unit">{escape(one.unit)}</span>' if one.unit else ""
    change = one.second - one.first
    shown = f"{'+' if change > 0 else ''}{plain(change)}{unit}"
    bar = difference_bar(one, widest * 1.05)
    return [escape(one.quantity), plain(one.first) + unit, plain(one.second) + unit, shown, bar, _in_words(one)]


def _in_words(one: Difference) -> str:
    if not (np.isfinite(one.low) and np.isfinite(one.high)):
        return f"too few episodes to tell ({one.num_episodes})"
    if one.low <= 0 <= one.high:
        return "no clear difference"
    return "B is better" if one.high < 0 else "B is worse"


def joints(content: ReportInput) -> str:
    """A row for each joint, for each policy a bar and what it stands for."""
    two = len(content.policies) > 1
    first = content.policies[0].replays[0]
    ranges = ranges_of(first)
    bars = np.array([_known(policy).by_joint / ranges for policy in content.policies])
    widest = float(bars[np.isfinite(bars)].max(initial=0.0))
    if not np.isfinite(bars).any():
        return section("Error by joint", "", none(NOTHING_COMPARED))
    heads = ["Joint", "Range"]
    for i, policy in enumerate(content.policies):
        who = f"{policy_letter(i)}<br>" if two else ""
        against = "commanded" if _known(policy) is policy.from_commands else "where it went"
        heads += [f"{who}Chunks against {against}", "Our commands against recorded"]
    rows = []
    for joint, name in enumerate(first.joint_names):
        row = [escape(name), plain(float(ranges[joint]))]
        for i, policy in enumerate(content.policies):
            bar = joint_bar(float(bars[i, joint]), widest, i, len(content.policies))
            row.append(f'<span class="bar">{bar} {_both(_known(policy).by_joint[joint], ranges[joint])}</span>')
            row.append(_both(policy.command_error[joint], ranges[joint]))
        rows.append(row)
    return section("Error by joint", JOINTS_NOTE, table(heads, rows, numbers=(1,)))


def _known(policy: PolicyResult) -> Errors:
    """Against the commands where a bag has them, else against the motion."""
    return policy.from_commands if np.isfinite(policy.from_commands.by_joint).any() else policy.from_motion


def _both(error: float, joint_range: float) -> str:
    if not np.isfinite(error):
        return "–"
    own = f'<span class="unit">({plain(float(error))})</span>'
    return f'<span class="bar">{percent(float(error / joint_range))} {own}</span>'


def horizon_and_latency(content: ReportInput) -> str:
    """Two charts side by side, where there is room."""
    two = len(content.policies) > 1
    who = [f"{POLICY_LETTERS[i]} " if two else "" for i in range(len(content.policies))]
    keys = [(line_key(f"curve wide policy{i}"), f"{name}against commands") for i, name in enumerate(who)]
    keys += [
        (line_key(f"curve wide policy{i} dashed"), f"{name}against where the robot went") for i, name in enumerate(who)
    ]
    steps = step_errors(content)
    shown = legend(keys) + wide(steps) if steps else none(NOTHING_COMPARED)
    left = section("Error by how far ahead", STEPS_NOTE, shown)
    latency = latency_histogram(content)
    keys = [(box_key(f"bar{i}"), name or "answers") for i, name in enumerate(who)]
    keys.append((line_key("quantile policy0"), "half (p50) and 99 of 100 (p99) are below"))
    right = section(
        "Latency", LATENCY_NOTE, legend(keys) + wide(latency) if latency else none("The policy gave no answer.")
    )
    return f'<div class="pair"><div>{left}</div><div>{right}</div></div>'
