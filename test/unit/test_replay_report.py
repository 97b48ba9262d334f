"""The report of a replay: one HTML file that holds all it shows."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from runtime_helpers import ROBOT

from vla_ros.recordings.series import TimeSeries
from vla_ros.replay.baseline.fingerprint import NUM_BANDS, NUM_CHANNELS, SKETCH_SIZE, InputFingerprint
from vla_ros.replay.baseline.provenance import Provenance
from vla_ros.replay.judge.paired import paired_differences
from vla_ros.replay.judge.summary import summarize
from vla_ros.replay.judge.verdict import PASS, Verdict
from vla_ros.replay.records import Incident, Replay, ReplayedChunk, Stretch
from vla_ros.replay.report.bags import short_names
from vla_ros.replay.report.page import Images, render_report
from vla_ros.replay.report.svg import curve, percent, plain, thinned, ticks
from vla_ros.replay.session import ReplaySession, SessionConfig
from vla_ros.replay.settings import ReplaySettings
from vla_ros.types import Frame

START_NS = 1_000_000_000_000
JOINTS = ("shoulder", "elbow<&>")
HORIZON = 5
NASTY = '<script>alert(1)</script> & "quotes"'
EMPTY = TimeSeries(np.zeros(0, np.int64), np.zeros((0, len(JOINTS))))
PASSED = Verdict(PASS, ("within every threshold",))
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
        start_ns=START_NS,
        end_ns=ns(length_s),
        episodes=(Stretch(START_NS, ns(length_s), f"touch {NASTY}"),),
        modes=(
            Stretch(START_NS, ns(4), "POLICY"),
            Stretch(ns(4), ns(6), "TELEOP"),
            Stretch(ns(6), ns(length_s), "POLICY"),
        ),
        chunks=tuple(make_chunk(0.5 * k, "TELEOP" if 4 <= 0.5 * k < 6 else "POLICY") for k in range(18)),
        commands=TimeSeries(times_ns, series.values + 0.02),
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


def make_session(*replays: Replay, driver: str = "policy", name: str = "two_joints") -> ReplaySession:
    """One replay for each policy, all of one bag."""
    return session_of(*((replay,) for replay in replays or (make_replay(),)), driver=driver, name=name)


def session_of(*policies: tuple[Replay, ...], driver: str = "policy", name: str = "two_joints") -> ReplaySession:
    """The replays of each policy."""
    return ReplaySession(
        config=SessionConfig((), (), replace(ROBOT, name=name), ReplaySettings(), driver),
        replays=policies,
        summaries=tuple(summarize(replays, driver) for replays in policies),
        paired=paired_differences(*policies, driver) if len(policies) == 2 else (),
        origin=Provenance({}, {}, {}, (), "this one"),
        unused=(),
        drifts=(),
    )


def images_of(session: ReplaySession) -> Images:
    """A red picture for every worst moment."""
    picture = np.full((48, 64, 3), (200, 30, 30), np.uint8)
    worst = [moment for summary in session.summaries for moment in summary.worst]
    return {(moment.bag, moment.header_ns): (Frame("front", 0, moment.header_ns, picture),) for moment in worst}


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


def rendered(session: ReplaySession, verdict: Verdict = PASSED) -> str:
    """The page, with every space an ordinary one."""
    return render_report(session, verdict, images_of(session)).replace("\u00a0", " ")


def test_the_file_holds_everything_it_shows_and_no_script():
    page = rendered(make_session())
    assert parsed(page).tags.isdisjoint({"script", "link", "iframe", "object"})
    assert "http" not in page and "url(" not in page and "@import" not in page
    assert set(re.findall(r'src="([^"]{11})', page)) == {"data:image/"}


def test_the_verdict_and_its_reasons_come_before_any_figure():
    page = rendered(make_session(), Verdict("fail", ("too far off",)))
    assert page.index("✗ FAIL") < page.index("too far off") < page.index("Key figures") < page.index("Timeline")


def test_an_unusual_verdict_is_neither_pass_nor_fail():
    page = rendered(make_session(), Verdict("nothing to compare", ()))
    assert 'class="verdict neutral"' in page and "○ NOTHING TO COMPARE" in page


def test_text_out_of_a_bag_is_shown_as_it_is_and_never_becomes_markup():
    bag = f"/bags/{NASTY.replace('/', '')}"
    session = make_session(replace(make_replay(bag), policy=NASTY), name=NASTY)
    shown = parsed(rendered(session, Verdict(NASTY, (NASTY,))))
    assert "script" not in shown.tags
    text = "".join(shown.shown)
    assert text.count(NASTY) >= 6 and text.count(bag.removeprefix("/bags/")) >= 2


def test_key_figures_are_in_parts_of_the_joints_range():
    page = rendered(make_session())
    assert "3.75 % of range" in page  # (0.1 / 2 + 0.1 / 4) / 2
    assert "7.50 % of range" in page and "0.75 % of range" in page


def test_events_that_differ_in_numbers_only_are_counted_together():
    page = rendered(make_session())
    assert page.count("joint &#39;shoulder&#39; was 1.20 rad/s</td>") == 1
    assert "1.30 rad/s</td>" not in page
    assert "1.0 s to 2.0 s" in page


def test_of_limits_every_command_is_counted():
    shown = parsed(rendered(make_session())).shown
    row = shown[shown.index("Limit", shown.index("Said")) :]
    assert row[1] == "5" and "every command that was bounded" in " ".join("".join(shown).split())
    assert "Commands that a limit would have bounded" in shown


def test_an_intervention_says_in_a_sentence_what_the_policy_would_have_done():
    text = " ".join("".join(parsed(rendered(make_session(off_by(make_replay(), 0.1, -0.8)))).shown).split())
    assert "A human took over at 4.0 s for 2.0 s" in text
    assert "most in elbow<&>: 20.0 % (0.800); its plans lie 0.800 lower there on average" in text


def test_a_worst_moment_is_drawn_with_its_image_and_found_from_the_timeline():
    replay = make_replay()
    worst = [replace(c, positions=c.commanded + 0.2) if c.header_ns == ns(1.0) else c for c in replay.chunks]
    page = rendered(make_session(replace(replay, chunks=tuple(worst))))
    assert 'id="moment-1"' in page and 'href="#moment-1"' in page
    assert "1. 1.0 s: 7.50 % of range off" in page
    assert page.count('<img alt="front, ') == page.count('class="moment"') > 1


def test_two_policies_stand_side_by_side_with_their_differences_in_words():
    old = off_by(with_episodes(make_replay(), 2), 0.2, 0.2)
    old, new = replace(old, policy="old"), replace(off_by(old, 0.1, 0.3), policy="new")
    page = rendered(make_session(old, new))
    parsed(page)
    assert "A: old" in page and "B: new" in page
    # Over all joints and of the shoulder it is better, of the elbow worse; against commands and against the motion.
    assert page.count("<td>B is better</td>") == 4 and page.count("<td>B is worse</td>") == 2
    page = rendered(make_session(old, replace(old, policy="new")))
    assert page.count("<td>no clear difference</td>") == 6
    page = rendered(make_session(with_episodes(old, 1), with_episodes(new, 1)))
    assert page.count("<td>too few episodes to tell (1)</td>") == 6


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
    ],
    ids=["no chunk", "nothing recorded", "no driver", "no length"],
)
def test_a_replay_that_lacks_something_still_makes_a_whole_page(changes):
    lacking = replace(make_replay("/bags/tuesday"), **changes)
    page = rendered(session_of((make_replay(), lacking)))
    parsed(page)
    assert "nan" not in re.sub(r"base64,[^\"]+", "", page).lower()


def test_without_recorded_commands_chunks_are_held_against_the_motion_and_the_page_says_so():
    replay = make_replay()
    chunks = tuple(replace(c, commanded=np.full_like(c.commanded, np.nan)) for c in replay.chunks)
    page = rendered(make_session(replace(replay, recorded_commands=EMPTY, chunks=chunks)))
    assert "The bag holds no commands" in page
    assert "Chunks against where it went" in page
    assert "touch, 1.00 s: 7.50 % of range, POLICY" in page  # (0.2 / 2 + 0.2 / 4) / 2, at a dot of the error curve


def off_by(replay: Replay, *distance: float) -> Replay:
    """``replay``, its chunks so far from what was commanded."""
    return replace(replay, chunks=tuple(replace(c, positions=c.commanded + np.array(distance)) for c in replay.chunks))


def with_episodes(replay: Replay, num_episodes: int) -> Replay:
    chunks = tuple(replace(c, episode=i % num_episodes) for i, c in enumerate(replay.chunks))
    return replace(replay, episodes=replay.episodes[:1] * num_episodes, chunks=chunks)


def test_of_many_bags_those_with_the_largest_error_are_drawn():
    page = rendered(session_of(tuple(off_by(make_replay(f"/bags/b{k}"), 0.01 * k) for k in range(9))))
    drawn = re.findall(r"<h3>Timeline of (b\d)</h3>", page)
    assert drawn == ["b8", "b7", "b6", "b5", "b4", "b3"]
    assert all(f"b{k}</th>" in page for k in range(9))


def test_ten_minutes_stay_small():
    replay = replace(make_replay(length_s=600.0), chunks=tuple(make_chunk(0.2 * k) for k in range(2950)))
    noise = np.random.default_rng(0).normal(size=replay.commands.values.shape)
    replay = replace(replay, joints=TimeSeries(replay.joints.times_ns, noise))
    assert len(rendered(make_session(replay))) < 1_000_000


def test_the_same_content_gives_the_same_page():
    assert rendered(make_session()) == rendered(make_session())


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
