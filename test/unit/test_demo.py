from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from vla_ros.demo import processes as demo_processes
from vla_ros.demo.processes import Processes
from vla_ros.demo.stats import Recording, control_stats, percentiles
from vla_ros.sim.scene import EpisodeStatus

MS = 1_000_000


def test_control_figures_count_periods_within_episodes_but_not_the_pauses_between():
    drives = [
        Recording(1, command_ns=[0, 20 * MS, 40 * MS]),
        Recording(2, command_ns=[9000 * MS, 9018 * MS, 9040 * MS]),
    ]
    stats = control_stats(drives)
    assert stats.rate_hz == 50.0
    assert stats.period_ms_p50 == 20.0
    assert stats.period_ms_max == 22.0


def test_without_commands_the_figures_are_missing_not_zero():
    assert control_stats([]).rate_hz is None
    assert control_stats([Recording(1, command_ns=[5])]).period_ms_p99 is None
    assert percentiles([]).p50 is None


def test_percentiles_are_of_the_values():
    assert percentiles(range(101)).p50 == 50.0
    assert percentiles(range(101)).p99 == 99.0


def test_of_an_episodes_views_the_first_the_middle_and_the_last_are_kept():
    views = [np.full((1, 1, 3), number, np.uint8) for number in range(7)]
    recording = Recording(1, views=views)
    recording.keep_three_views()
    assert [view[0, 0, 0] for view in recording.views] == [0, 3, 6]
    empty = Recording(2)
    empty.keep_three_views()
    assert empty.views == []


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_child_that_ends_by_itself_is_reported_with_its_last_line(tmp_path):
    with Processes(tmp_path) as processes:
        processes.start("model_node", [sys.executable, "-c", "print('loading'); raise SystemExit('no such policy')"])
        deadline = time.monotonic() + 20
        with pytest.raises(ValueError, match="model_node ended by itself.*exit code 1.*no such policy"):
            while time.monotonic() < deadline:
                processes.check()
                time.sleep(0.05)


def test_every_child_is_ended_even_one_that_ignores_the_gentle_signals(tmp_path, monkeypatch):
    gentle = ((signal.SIGINT, 0.3), (signal.SIGTERM, 0.3), (signal.SIGKILL, 5.0))
    monkeypatch.setattr(demo_processes, "STOP_SIGNALS", gentle)
    ignore = "import signal, time; [signal.signal(s, signal.SIG_IGN) for s in (2, 15)]; print('up', flush=True)"
    with pytest.raises(KeyboardInterrupt):
        with Processes(tmp_path) as processes:
            processes.start("stubborn", [sys.executable, "-c", f"{ignore}; time.sleep(60)"])
            processes.start("meek", [sys.executable, "-c", "import time; time.sleep(60)"])
            pids = [processes.pid(name) for name in ("stubborn", "meek")]
            while processes.last_line("stubborn") != "up":
                time.sleep(0.02)
            raise KeyboardInterrupt
    assert not any(is_running(pid) for pid in pids)


def test_a_child_that_was_killed_is_gone_is_no_fault_and_can_be_started_again(tmp_path):
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    with Processes(tmp_path) as processes:
        processes.start("model_node", sleep)
        pid = processes.pid("model_node")
        processes.kill("model_node")
        assert not is_running(pid)
        processes.check()
        processes.start("model_node", sleep)
        processes.check()


@pytest.mark.parametrize("num_episodes, num_columns", [(1, 2), (10, 2), (9, 3), (13, 5)])
def test_the_contact_sheet_is_drawn_for_any_number_of_episodes(tmp_path, num_episodes, num_columns):
    pytest.importorskip("matplotlib")
    from PIL import Image

    from vla_ros.demo.pictures import write_contact_sheet

    frame = np.full((64, 64, 3), 90, np.uint8)
    failed = EpisodeStatus(0, "go to the blue block", "blue", "timeout", 8.0, num_episodes)
    episodes = [EpisodeStatus(0, "tap the red box", "red", "success", 2.9, n) for n in range(1, num_episodes)]
    recordings = [Recording(episode.episode, views=[frame] * 3) for episode in episodes]
    recordings.append(Recording(failed.episode))
    write_contact_sheet(tmp_path / "sheet.png", "done", [*episodes, failed], recordings, num_columns)
    assert min(Image.open(tmp_path / "sheet.png").size) > 200


def test_the_joint_plot_is_drawn_for_any_number_of_joints(tmp_path):
    pytest.importorskip("matplotlib")
    from vla_ros.demo.pictures import write_joint_plot

    samples = [(round(1e9 * time_s), np.full(4, np.sin(time_s))) for time_s in np.linspace(0, 2, 50)]
    recording = Recording(1, commands=samples, states=samples, chunk_ns=[0, 10**9])
    write_joint_plot(tmp_path / "joints.png", "joints", dict.fromkeys("abcd", (-1.0, 1.0)), recording)
    assert (tmp_path / "joints.png").stat().st_size > 1000


@pytest.mark.parametrize("name", ["new/film.gif", "film.WEBP"])
def test_the_film_has_every_view_and_the_outcome_at_the_end_of_each_episode(tmp_path, name):
    from PIL import Image

    from vla_ros.demo.pictures import CAPTION_PIXELS, PAUSE_S, write_film

    episodes = [EpisodeStatus(0, "tap the red box", "red", "success", 2.9, n) for n in (1, 2)]
    views = [np.full((64, 96, 3), grey, np.uint8) for grey in range(0, 250, 50)]
    write_film(tmp_path / name, episodes, [views, []], 10.0)
    with Image.open(tmp_path / name) as film:
        durations = []
        for number in range(film.n_frames):
            film.seek(number)
            film.load()
            durations.append(film.info["duration"])
        assert film.size == (96, 64 + CAPTION_PIXELS) and film.info["loop"] == 0
    # What doesn't change is one longer picture.
    assert sum(durations) == 100 * (len(views) - 1) + 1000 * PAUSE_S and len(durations) >= len(views)
    with pytest.raises(ValueError, match="no pictures arrived"):
        write_film(tmp_path / name, episodes, [[], []], 10.0)


def test_an_interruption_while_a_child_is_started_loses_no_child(tmp_path, monkeypatch):
    started = []

    class Interrupted(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            started.append(self)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(demo_processes.subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt), Processes(tmp_path) as processes:
        processes.start("sleeper", ["sleep", "60"])
    (child,) = started
    try:
        assert child.poll() is not None
    finally:
        child.kill()


def test_a_child_ends_with_a_parent_that_is_killed(tmp_path):
    parent = textwrap.dedent(
        f"""
        import os, signal, sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(demo_processes.__file__).parents[2])!r})
        from vla_ros.demo.processes import Processes
        processes = Processes(Path({str(tmp_path)!r}))
        processes.start("sleeper", ["sleep", "60"])
        print(processes.pid("sleeper"), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    run = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True)
    command_line = Path(f"/proc/{int(run.stdout)}/cmdline")
    deadline = time.monotonic() + 20.0
    # What nobody waits for keeps its number, but no command line.
    while command_line.exists() and command_line.read_bytes():
        assert time.monotonic() < deadline, "the child goes on"
        time.sleep(0.01)
