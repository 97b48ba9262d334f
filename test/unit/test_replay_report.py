"""The report of a replay: one HTML file that holds all it shows."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from vla_ros.replay.baseline.fingerprint import NUM_BANDS, NUM_CHANNELS, SKETCH_SIZE, InputFingerprint
from vla_ros.replay.records import Incident, Replay, ReplayedChunk, Stretch
from vla_ros.replay.report.bags import short_names
from vla_ros.replay.report.content import (
    CameraImage,
    Difference,
    Errors,
    Intervention,
    Moment,
    PolicyResult,
    ReportInput,
)
from vla_ros.replay.report.page import render_report, write_report
from vla_ros.replay.report.svg import curve, percent, plain, thinned, ticks
from vla_ros.replay.series import TimeSeries

START_NS = 1_000_000_000_000
JOINTS = ("shoulder", "elbow<&>")
HORIZON = 5
NASTY = '<script>alert(1)</script> & "quotes"'
EMPTY = TimeSeries(np.zeros(0, np.int64), np.zeros((0, len(JOINTS))))
NO_ERRORS = Errors(np.full(len(JOINTS), np.nan), np.full(HORIZON, np.nan))
VOID_TAGS = {"meta", "br", "img"}


def ns(seconds: float) -> int:
    return START_NS + round(seconds * 1e9)


def make_chunk(at_s: float, driver: str = "POLICY") -> ReplayedChunk:
    positions = np.full((HORIZON, len(JOINTS)), at_s / 10)
    return ReplayedChunk(
        header_ns=ns(at_s),
        asked_ns=ns(at_s),
        arrived_ns=ns(at_s + 0.08),
        driver=driver,
        episode=0,
        due_ns=np.array([ns(at_s + 0.1 * (k + 1)) for k in range(HORIZON)]),
        positions=positions,
        commanded=positions + 0.1,
        measured=positions + 0.2,
        fingerprint=InputFingerprint(
            image_grid=(),
            patch_length=0,
            coarse=np.zeros((0, NUM_BANDS, NUM_CHANNELS)),
            sketch=np.zeros((0, SKETCH_SIZE)),
            state=np.zeros(0),
            noise=np.zeros(0),
            num_tokens=0,
            tokens="",
            layout="",
        ),
    )


def make_replay(bag: str = "/bags/monday", length_s: float = 10.0) -> Replay:
    times_ns = np.array([ns(k / 50) for k in range(round(50 * length_s))])
    series = TimeSeries(times_ns, np.sin(times_ns[:, None] / 1e9) * np.array([[1.0, 0.5]]))
    return Replay(
        bag=bag,
        policy="touch",
        digest="0123456789abcdef",
        joint_names=JOINTS,
        joint_ranges=np.array([2.0, 4.0]),
        chunk_dt_s=0.1,
        start_ns=START_NS,
        end_ns=ns(length_s),
        episodes=(Stretch(START_NS, ns(length_s), f"touch {NASTY}"),),
        modes=(
            Stretch(START_NS, ns(4), "POLICY"),
            Stretch(ns(4), ns(6), "TELEOP"),
            Stretch(ns(6), ns(length_s), "POLICY"),
        ),
        chunks=tuple(make_chunk(0.5 * k, "TELEOP" if 4 <= 0.5 * k < 6 else "POLICY") for k in range(18)),
        commands=series,
        command_drivers=np.full(len(times_ns), "POLICY"),
        recorded_commands=series,
        joints=series,
        events=(
            Incident(ns(1), "limit", "joint 'shoulder' was 1.20 rad/s", "shoulder"),
            Incident(ns(2), "limit", "joint 'shoulder' was 1.30 rad/s", "shoulder", num_times=4),
            Incident(ns(3), "watchdog", f"camera {NASTY} is 0.43 s old"),
        ),
        assumed_latency_ms=None,
        problems=(f"topic {NASTY} is missing",),
    )


def make_result(*replays: Replay, name: str = "touch") -> PolicyResult:
    image = CameraImage("front", ns(1), np.full((48, 64, 3), (200, 30, 30), np.uint8))
    return PolicyResult(
        name=name,
        digest="0123456789abcdef",
        replays=replays,
        num_chunks=14,
        from_commands=Errors(np.array([0.1, 0.1]), np.linspace(0.01, 0.05, HORIZON)),
        from_motion=Errors(np.array([0.2, 0.2]), np.linspace(0.02, 0.06, HORIZON)),
        command_error=np.array([0.02, 0.02]),
        num_limit_events=2,
        num_watchdog_events=1,
        num_processor_events=0,
        latencies_ms=np.linspace(70, 100, 14),
        interventions=(Intervention(replays[0].bag, 4.0, 2.0, 4, np.array([0.1, 0.8]), np.array([0.1, -0.8])),),
        moments=(Moment(replays[0].bag, make_chunk(1.0), 0.0375, (image,)),),
    )


def make_input(*policies: PolicyResult, **changes) -> ReportInput:
    content = ReportInput(
        title="Replay of monday",
        verdict="pass",
        reasons=("within every threshold",),
        settings={"Robot": "two_joints"},
        policies=policies or (make_result(make_replay()),),
        compared_drivers=("POLICY",),
    )
    return replace(content, **changes)


def bare(replay: Replay) -> PolicyResult:
    """The result of a replay that came to nothing."""
    return replace(
        make_result(replay),
        num_chunks=0,
        from_commands=NO_ERRORS,
        from_motion=NO_ERRORS,
        command_error=np.full(len(JOINTS), np.nan),
        latencies_ms=np.zeros(0),
        interventions=(),
        moments=(),
    )


class Nesting(HTMLParser):
    """Raises where a tag is closed that is not the last one opened; gathers what is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.shown: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> within {self.open}"
        self.open.pop()

    def handle_data(self, data):
        self.shown.append(data)


def parsed(page: str) -> Nesting:
    parser = Nesting()
    parser.feed(page)
    assert not parser.open
    return parser


def rendered(content: ReportInput) -> str:
    """The page, with every space an ordinary one."""
    return render_report(content).replace("\u00a0", " ")


def test_the_file_holds_everything_it_shows_and_no_script(tmp_path):
    write_report(make_input(), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert parsed(page).tags.isdisjoint({"script", "link", "iframe", "object"})
    assert "http" not in page and "url(" not in page and "@import" not in page
    assert re.findall(r'src="([^"]{11})', page) == ["data:image/"]


def test_the_verdict_and_its_reasons_come_before_any_figure():
    page = rendered(make_input(verdict="fail", reasons=("too far off",)))
    assert page.index("✗ FAIL") < page.index("too far off") < page.index("Key figures") < page.index("Timeline")


def test_an_unusual_verdict_is_neither_pass_nor_fail():
    page = rendered(make_input(verdict="nothing to compare"))
    assert 'class="verdict other"' in page and "! NOTHING TO COMPARE" in page


def test_text_out_of_a_bag_is_shown_as_it_is_and_never_becomes_markup():
    replay = make_replay(bag=f"/bags/{NASTY.replace('/', '')}")
    result = make_result(replay, name=NASTY)
    content = make_input(result, title=NASTY, verdict=NASTY, reasons=(NASTY,), settings={NASTY: NASTY})
    shown = parsed(rendered(content))
    assert "script" not in shown.tags
    assert "".join(shown.shown).count(NASTY) >= 6


def test_key_figures_are_in_parts_of_the_joints_range():
    page = rendered(make_input())
    assert "3.75 % of range" in page  # (0.1 / 2 + 0.1 / 4) / 2
    assert "7.50 % of range" in page and "0.75 % of range" in page


def test_events_that_differ_in_numbers_only_are_counted_together():
    page = rendered(make_input())
    assert page.count("joint &#x27;shoulder&#x27; was 1.20 rad/s</td>") == 1
    assert "1.30 rad/s</td>" not in page
    assert "1.0 s to 2.0 s" in page


def test_of_limits_every_command_is_counted():
    shown = parsed(rendered(make_input())).shown
    row = shown[shown.index("Limit", shown.index("Said")) :]
    assert row[1] == "5" and "every command that was bounded" in "".join(shown)
    assert "Commands that a limit would have bounded" in shown


def test_an_intervention_says_in_a_sentence_what_the_policy_would_have_done():
    text = "".join(parsed(rendered(make_input())).shown)
    assert "A human took over at 4.0 s for 2.0 s" in text
    assert "most in elbow<&>: 20.0 % (0.800); its plans lie 0.800 lower there on average" in text


def test_a_worst_moment_is_drawn_with_its_image_and_found_from_the_timeline():
    page = rendered(make_input())
    assert 'id="moment-1"' in page and 'href="#moment-1"' in page
    assert "1. 1.0 s: 3.75 % of range off" in page


def test_two_policies_stand_side_by_side_with_their_differences_in_words():
    better = Difference("chunks", "%", 2.0, 1.0, -1.4, -0.6, 8)
    unclear = Difference("limits", "", 2.0, 2.5, -0.5, 1.5, 8)
    too_few = Difference("watchdogs", "", 1.0, 2.0, float("nan"), float("nan"), 1)
    replay = make_replay()
    pair = (make_result(replay, name="old"), make_result(replay, name="new"))
    page = rendered(make_input(*pair, differences=(better, unclear, too_few)))
    parsed(page)
    assert "A: old" in page and "B: new" in page
    assert page.count("<td>B is better</td>") == 1 and page.count("<td>no clear difference</td>") == 1
    assert "too few episodes to tell (1)" in page


@pytest.mark.parametrize(
    "changes",
    [
        {"chunks": ()},
        {
            "chunks": (),
            "commands": EMPTY,
            "recorded_commands": EMPTY,
            "joints": EMPTY,
            "command_drivers": np.zeros(0, "U6"),
        },
        {"modes": (Stretch(START_NS, ns(10), ""),), "events": (), "problems": ()},
        {"end_ns": START_NS},
        {"joint_ranges": np.zeros(len(JOINTS))},
    ],
    ids=["no chunk", "nothing recorded", "no driver", "no length", "no range"],
)
def test_a_replay_that_lacks_something_still_makes_a_whole_page(changes):
    page = rendered(make_input(bare(replace(make_replay(), **changes))))
    parsed(page)
    assert "nan" not in re.sub(r"base64,[^\"]+", "", page).lower()


def test_without_recorded_commands_chunks_are_held_against_the_motion_and_the_page_says_so():
    replay = make_replay()
    chunks = tuple(replace(c, commanded=np.full_like(c.commanded, np.nan)) for c in replay.chunks)
    replay = replace(replay, recorded_commands=EMPTY, chunks=chunks)
    page = rendered(make_input(replace(make_result(replay), from_commands=NO_ERRORS)))
    assert "The bag holds no commands" in page
    assert "Chunks against where it went" in page
    assert "touch, 1.00 s: 7.50 % of range, POLICY" in page  # (0.2 / 2 + 0.2 / 4) / 2, at a dot of the error curve


def test_of_many_bags_those_with_the_largest_error_are_drawn():
    def off_by(replay: Replay, distance: float) -> Replay:
        return replace(replay, chunks=tuple(replace(c, positions=c.commanded + distance) for c in replay.chunks))

    replays = [off_by(make_replay(f"/bags/b{k}", 10.0), 0.01 * k) for k in range(9)]
    page = rendered(make_input(make_result(*replays)))
    drawn = re.findall(r"<h3>Timeline of (b\d)</h3>", page)
    assert drawn == ["b8", "b7", "b6", "b5", "b4", "b3"]
    assert all(f"b{k}</th>" in page for k in range(9))


def test_ten_minutes_stay_small():
    replay = replace(make_replay(length_s=600.0), chunks=tuple(make_chunk(0.2 * k) for k in range(2950)))
    noise = np.random.default_rng(0).normal(size=replay.commands.values.shape)
    replay = replace(replay, joints=TimeSeries(replay.joints.times_ns, noise))
    assert len(rendered(make_input(make_result(replay)))) < 1_000_000


def test_the_same_content_gives_the_same_page():
    assert render_report(make_input()) == render_report(make_input())


@pytest.mark.parametrize("num_policies", [0, 3])
def test_a_report_is_of_one_or_two_policies(num_policies):
    with pytest.raises(ValueError, match="expected one or two"):
        replace(make_input(), policies=(make_result(make_replay()),) * num_policies)


def test_policies_replayed_on_different_bags_are_refused():
    with pytest.raises(ValueError, match="expected the same bags"):
        make_input(make_result(make_replay("a")), make_result(make_replay("b")))


def test_thinning_a_curve_keeps_its_peaks_and_its_gaps():
    times, values = np.arange(10_000.0), np.zeros(10_000)
    values[1234], values[5678] = 9.0, -9.0
    values[7000:8000] = np.nan
    kept = thinned(times, values, 100.0)
    assert len(kept) <= 200
    assert {1234, 5678} <= set(kept.tolist())
    assert np.isnan(values[kept]).sum() == 10


def test_a_drawn_curve_passes_within_a_fifth_of_a_pixel_of_every_sample():
    x = np.arange(500.0)
    y = 40 * np.sin(x / 30) + np.random.default_rng(1).normal(0, 0.3, 500)
    corners = np.array(
        [[float(v) for v in point.split()] for point in re.findall(r"[ML]([\d.-]+ [\d.-]+)", curve(x, y))]
    )
    assert len(corners) < 400
    # Coordinates are written to a tenth of a pixel.
    np.testing.assert_allclose(np.interp(x, corners[:, 0], corners[:, 1]), y, atol=0.2 + 0.1)


def test_a_curve_is_interrupted_where_nothing_is_known():
    d = curve(np.array([0.0, 1.0, 2.0, 3.0, 4.0]), np.array([0.0, 5.0, np.nan, 1.0, 7.0]))
    assert d == "M0.0 0.0L1.0 5.0M3.0 1.0L4.0 7.0"


def test_ticks_are_round_numbers_within_the_scale():
    assert ticks(-0.45, 0.45, 4) == pytest.approx([-0.4, -0.2, 0.0, 0.2, 0.4])
    assert ticks(0.0, 60.0, 10) == pytest.approx(list(range(0, 61, 5)))


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (0.0123456, "0.0123"), (-1.5, "\u22121.50"), (0.99999, "1.00"), (12345.0, "12,300"), (np.nan, "–")],
)
def test_numbers_have_three_digits(value, shown):
    assert plain(value) == shown


def test_percents_keep_two_decimals_below_ten():
    assert [percent(v).replace("\u00a0", " ") for v in (0.0123, 0.5, 0.0, 0.00012, np.inf)] == [
        "1.23 %",
        "50.0 %",
        "0.00 %",
        "0.0120 %",
        "–",
    ]


def test_bags_are_named_by_what_tells_them_apart():
    assert short_names(["/a/monday", "/a/tuesday"]) == ["monday", "tuesday"]
    assert short_names(["/a/x/bag", "/a/y/bag"]) == ["x/bag", "y/bag"]
