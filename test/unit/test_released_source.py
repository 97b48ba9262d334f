"""Where released runs and their VLM are found: in folders, in the cache, on a hub that is played here."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from vla_ros.policies.pi.released.source import (
    ReleasedRun,
    find_image_config,
    find_run,
    find_stats,
    find_tokenizer,
    find_vlm_config,
)

COMMIT = "c0ffee"


def make_files(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return folder


class Hub:
    """One repository: what was asked of it, and a cache that files come into."""

    def __init__(self, cache: Path, files: tuple[str, ...] = ()) -> None:
        self.cache, self.files = cache, files
        self.looked_up: list[tuple[str, str | None]] = []
        self.patterns: list[str] = []
        self.downloads: list[str] = []

    def model_info(self, repo: str, revision: str | None = None) -> SimpleNamespace:
        self.looked_up.append((repo, revision))
        return SimpleNamespace(sha=COMMIT, siblings=[SimpleNamespace(rfilename=name) for name in self.files])

    def snapshot_download(self, repo: str, revision: str, allow_patterns: list[str]) -> str:
        assert revision == COMMIT, "the files must be those that were listed"
        self.patterns = allow_patterns
        return str(make_files(self.cache, *allow_patterns))

    def hf_hub_download(self, repo: str, name: str, local_files_only: bool = False) -> str:
        if not (self.cache / name).is_file():
            if local_files_only:
                raise LocalEntryNotFoundError("not cached")
            if name not in self.files:
                raise OSError(f"404 for\n{name}")
            self.downloads.append(name)
            make_files(self.cache, name)
        return str(self.cache / name)


def play_hub(monkeypatch: pytest.MonkeyPatch, cache: Path, *files: str) -> Hub:
    hub = Hub(cache, files)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub.hf_hub_download)
    return hub


def run_in(folder: Path, *more: str) -> ReleasedRun:
    return find_run(str(make_files(folder, "cfg.yaml", "checkpoint_3/model.pt", *more)))


def refusal(call, *args) -> str:
    with pytest.raises(ValueError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_highest_checkpoint_counts_by_number(tmp_path: Path) -> None:
    names = ("checkpoint_9/model.pt", "checkpoint_10/model.pt", "checkpoint_11/optimizer.pt", "checkpoint_x/model.pt")
    assert run_in(tmp_path, *names).model == tmp_path / "checkpoint_10" / "model.pt"


def test_a_checkpoint_folder_chooses_itself(tmp_path: Path) -> None:
    make_files(tmp_path, "cfg.yaml", "checkpoint_3/model.pt", "checkpoint_4/model.pt")
    run = find_run(str(tmp_path / "checkpoint_3"))
    assert (run.cfg, run.model) == (tmp_path / "cfg.yaml", tmp_path / "checkpoint_3" / "model.pt")


def test_what_is_no_run_is_refused_by_what_it_lacks(tmp_path: Path) -> None:
    assert "nowhere is not a folder" in refusal(find_run, str(tmp_path / "nowhere"))
    assert "has no checkpoint_N/model.pt" in refusal(find_run, str(make_files(tmp_path / "a", "cfg.yaml")))
    assert "cfg.yaml is missing" in refusal(find_run, str(make_files(tmp_path / "b", "checkpoint_1/model.pt")))


def test_only_what_an_import_reads_is_downloaded_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ("cfg.yaml", "checkpoint_20/model.pt", "stats.npz", "vlm/config.json", "vlm/tokenizer.json")
    others = ("README.md", "checkpoint_3/model.pt", "checkpoint_20/optimizer.pt", "data/more.npz")
    hub = play_hub(monkeypatch, tmp_path, *wanted, *others)
    run = find_run("hf:org/repo@v1.0")
    assert hub.looked_up == [("org/repo", "v1.0")] and sorted(hub.patterns) == sorted(wanted)
    assert run.model == tmp_path / "checkpoint_20" / "model.pt" and run.cfg == tmp_path / "cfg.yaml"


def test_statistics_may_lie_in_a_repository_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_files(tmp_path / "run", "cfg.yaml", "checkpoint_1/model.pt")
    run = find_run(str(tmp_path / "run"))
    hub = play_hub(monkeypatch, tmp_path, "libero/stats.npz", "other/more.npz", "README.md")
    for given in ("hf:org/stats/libero", "hf:org/stats/libero/stats.npz@v1"):
        assert find_stats(run, given) == tmp_path / "libero" / "stats.npz"
    assert hub.looked_up == [("org/stats", None), ("org/stats", "v1")] and set(hub.patterns) == {"libero/stats.npz"}
    assert "holds libero/stats.npz, other/more.npz; name one" in refusal(find_stats, run, "hf:org/stats")
    assert "holds none; name one .npz" in refusal(find_stats, run, "hf:org/stats/nothing")


@pytest.mark.parametrize("source", ["hf:org/repo/runs/best", "hf:org/repo/runs/best/checkpoint_7@main"])
def test_a_subpath_of_a_hub_repository_is_a_run_or_a_checkpoint(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = play_hub(monkeypatch, tmp_path, "runs/best/cfg.yaml", "runs/best/checkpoint_7/model.pt", "cfg.yaml")
    assert find_run(source).model == tmp_path / "runs" / "best" / "checkpoint_7" / "model.pt"
    assert sorted(hub.patterns) == ["runs/best/cfg.yaml", "runs/best/checkpoint_7/model.pt"]


@pytest.mark.parametrize("source", ["hf:", "hf:org", "hf:org/repo/../../x", "hf:org/repo@", "hf:a b/c"])
def test_a_hub_source_of_another_form_is_refused_before_anything_is_asked(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = play_hub(monkeypatch, tmp_path)
    assert "expected hf:org/repo[/subpath][@revision]" in refusal(find_run, source)
    assert hub.looked_up == []


def test_a_hub_that_refuses_is_reported_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = play_hub(monkeypatch, tmp_path)

    def fail(*args, **kwargs):
        raise OSError("401:\nrepository not found")

    hub.model_info = fail
    assert "hf:org/repo@v2: the hub gives OSError: 401: repository not found" in refusal(find_run, "hf:org/repo@v2")


def test_the_vlm_is_taken_from_where_the_user_says(tmp_path: Path) -> None:
    run = run_in(tmp_path / "run", "vlm/config.json")
    given = make_files(tmp_path / "mine", "config.json")
    assert find_vlm_config(run, "vlm", str(given)) == given / "config.json"
    assert find_vlm_config(run, "vlm", str(given / "config.json")) == given / "config.json"
    assert "does not exist" in refusal(find_vlm_config, run, "vlm", str(tmp_path / "nowhere"))


@pytest.mark.parametrize("place", ["run/vlm", "run/org/name", "org/name"])
def test_the_vlm_is_found_in_the_run_and_beside_it(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = play_hub(monkeypatch, tmp_path / "cache", "config.json")
    run = run_in(tmp_path / "run")
    make_files(tmp_path / place, "config.json")
    assert find_vlm_config(run, "org/name", None) == tmp_path / place / "config.json"
    assert hub.downloads == []


def test_the_vlm_comes_from_the_cache_and_only_then_from_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = play_hub(monkeypatch, tmp_path / "cache", "config.json", "tokenizer.json")
    run = run_in(tmp_path / "run")
    for _ in range(2):
        found = find_vlm_config(run, "org/name", None)
    assert found == tmp_path / "cache" / "config.json" and hub.downloads == ["config.json"]
    assert find_tokenizer(found, "org/name") == tmp_path / "cache" / "tokenizer.json"
    assert find_image_config(found) is None


@pytest.mark.parametrize("model_id", ["vlm", "../vlm", "/etc", "org/name/more"])
def test_a_vlm_that_is_nowhere_and_no_repository_is_asked_for(model_id: str, tmp_path: Path) -> None:
    run = run_in(tmp_path / "a" / "run")
    make_files(tmp_path / "vlm", "config.json")  # two levels up: a name from a file may not reach it
    assert "give it with --vlm PATH" in refusal(find_vlm_config, run, model_id, None)


def test_a_tokenizer_that_is_nowhere_is_asked_for(tmp_path: Path) -> None:
    config = make_files(tmp_path, "config.json") / "config.json"
    assert "put the VLM's tokenizer.json there" in refusal(find_tokenizer, config, "vlm")


def test_statistics_are_the_only_npz_of_the_run_or_the_given_one(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    assert "no statistics (.npz)" in refusal(find_stats, run, None)
    make_files(tmp_path, "one.npz")
    assert find_stats(run, None) == tmp_path / "one.npz"
    make_files(tmp_path, "two.npz")
    assert "several statistics (one.npz, two.npz)" in refusal(find_stats, run, None)
    assert find_stats(run, str(tmp_path / "two.npz")) == tmp_path / "two.npz"
    assert "is not a file" in refusal(find_stats, run, str(tmp_path / "three.npz"))
