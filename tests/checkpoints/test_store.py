"""Checkpoints: complete or absent, whatever happens to the process or to the files."""

import json
import os
import random
import signal
import time
import traceback

import pytest
import torch
from safetensors.torch import save_file

from effopd.checkpoints import store as store_module
from effopd.checkpoints.manifest import (
    FileRecord,
    checkpoint_root,
    hash_file,
    last_intact_step,
    list_checkpoints,
    verify_checkpoint,
)
from effopd.checkpoints.reading import best_checkpoint, checkpoint_at
from effopd.checkpoints.store import CheckpointStore, weights_hash
from effopd.errors import CheckpointError
from effopd.types import RunState


def write_weights(step):
    def write(directory):
        save_file({"w": torch.full((64,), float(step))}, directory / "master.safetensors")

    return write


def save(store, step, score=None, extra=None):
    return store.save(RunState(step=step, seconds=step / 2), write_weights(step), extra or {}, score)


def steps(run_dir):
    return sorted(int(path.name.removeprefix("step_")) for path in checkpoint_root(run_dir).glob("step_*"))


def test_a_checkpoint_brings_back_state_and_extra(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=2, keep_best=True)
    state = RunState(step=3, data_position=3, num_generated_tokens=700, num_gate_tokens=200, seconds=1.25)
    directory = store.save(state, write_weights(3), {"ledger": {"train": 0.5}}, score=0.5)
    assert directory == tmp_path / "checkpoints" / "step_000003"
    found = CheckpointStore(tmp_path, keep_last=2, keep_best=True).latest()
    assert found is not None
    assert (found.directory, found.state, found.score) == (directory, state, 0.5)
    assert found.extra == {"ledger": {"train": 0.5}}
    assert found.skipped == {}


def test_the_manifest_names_every_file_with_size_and_hash(tmp_path):
    directory = save(CheckpointStore(tmp_path, keep_last=1, keep_best=False), 1)
    files = {entry["name"]: entry for entry in json.loads((directory / "manifest.json").read_text())["files"]}
    assert set(files) == {"master.safetensors", "run_state.json"}
    for name, entry in files.items():
        assert entry["num_bytes"] == (directory / name).stat().st_size
        assert entry["blake2b"] == hash_file(directory / name)


def test_a_record_from_the_writer_stands_for_reading_the_file_again(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=1, keep_best=False)

    def write(directory):
        (directory / "x.bin").write_bytes(b"abc")
        return [FileRecord(name="x.bin", num_bytes=3, blake2b="as the writer says")]

    directory = store.save(RunState(step=1), write, {}, None)
    files = json.loads((directory / "manifest.json").read_text())["files"]
    assert {"name": "x.bin", "num_bytes": 3, "blake2b": "as the writer says"} in files


def test_a_run_without_checkpoints_has_no_latest_and_no_best(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=1, keep_best=True)
    assert store.latest() is None
    assert best_checkpoint(tmp_path) is None


def test_the_newest_and_the_best_are_kept(tmp_path):
    # Scores by step: 1: .2, 2: .9, 3: .9 (a tie, the earlier wins), 4: none, 5: .1, 6: .3. Last two: 5 and 6.
    store = CheckpointStore(tmp_path, keep_last=2, keep_best=True)
    for step, score in enumerate([0.2, 0.9, 0.9, None, 0.1, 0.3], start=1):
        save(store, step, score)
    assert steps(tmp_path) == [2, 5, 6]
    best = best_checkpoint(tmp_path)
    assert best is not None and best.state.step == 2
    assert json.loads((tmp_path / "checkpoints" / "best.json").read_text()) == {"step": 2, "score": 0.9}


def test_without_keep_best_the_best_of_those_kept_is_named(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=2, keep_best=False)
    for step, score in enumerate([0.9, 0.2, 0.3], start=1):
        save(store, step, score)
    assert steps(tmp_path) == [2, 3]
    best = best_checkpoint(tmp_path)
    assert best is not None and best.state.step == 3


def test_a_step_that_is_not_there_is_named_with_those_that_are(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=2, keep_best=False)
    save(store, 1)
    save(store, 2)
    assert checkpoint_at(tmp_path, 1).state.step == 1
    with pytest.raises(CheckpointError, match="no checkpoint at step 7; there are: 1, 2"):
        checkpoint_at(tmp_path, 7)


def truncate(path):
    # Two bytes: the last of a JSON file is a newline, which it can do without.
    os.truncate(path, path.stat().st_size - 2)


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, os.unlink])
@pytest.mark.parametrize("name", ["master.safetensors", "run_state.json", "manifest.json"])
def test_a_damaged_file_sends_latest_to_the_previous_checkpoint(tmp_path, caplog, damage, name):
    store = CheckpointStore(tmp_path, keep_last=3, keep_best=False)
    for step in (1, 2, 3):
        save(store, step)
    damage(tmp_path / "checkpoints" / "step_000003" / name)
    found = store.latest()
    assert found is not None and found.state.step == 2
    assert list(found.skipped) == ["step_000003"]
    assert name in found.skipped["step_000003"]
    assert "step_000003" in caplog.text and name in caplog.text
    with pytest.raises(CheckpointError, match=name):
        checkpoint_at(tmp_path, 3)


def test_only_damaged_checkpoints_are_an_error_and_not_a_fresh_start(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=2, keep_best=False)
    flip_a_bit(save(store, 1) / "master.safetensors")
    truncate(save(store, 2) / "master.safetensors")
    with pytest.raises(CheckpointError, match=r"every checkpoint is damaged.*step_000002.*step_000001"):
        store.latest()


def test_the_last_intact_step_is_that_of_the_newest_sound_checkpoint(tmp_path):
    assert last_intact_step(tmp_path) is None
    store = CheckpointStore(tmp_path, keep_last=2, keep_best=False)
    save(store, 1)
    flip_a_bit(save(store, 2) / "master.safetensors")
    assert last_intact_step(tmp_path) == 1


def rewrite_state(directory, change):
    """Change the state that a checkpoint holds, and its hash with it."""
    content = json.loads((directory / "run_state.json").read_text())
    change(content["state"])
    (directory / "run_state.json").write_text(json.dumps(content))
    manifest = json.loads((directory / "manifest.json").read_text())
    for entry in manifest["files"]:
        path = directory / entry["name"]
        entry |= {"num_bytes": path.stat().st_size, "blake2b": hash_file(path)}
    (directory / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("change", [lambda state: state.pop("seconds"), lambda state: state.update(more=1)])
def test_a_state_with_other_fields_is_refused(tmp_path, change):
    store = CheckpointStore(tmp_path, keep_last=1, keep_best=False)
    directory = save(store, 1)
    rewrite_state(directory, change)
    with pytest.raises(CheckpointError, match="exactly the fields"):
        checkpoint_at(tmp_path, 1)


def test_a_failed_write_leaves_the_folder_as_it_was(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=1, keep_best=False)
    save(store, 1)

    def write(directory):
        (directory / "half").write_text("x")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        store.save(RunState(step=2), write, {}, None)
    assert sorted(path.name for path in checkpoint_root(tmp_path).iterdir()) == ["step_000001"]


def test_saving_a_step_again_replaces_it(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=1, keep_best=False)
    save(store, 1, extra={"try": 1})
    save(store, 1, extra={"try": 2})
    assert checkpoint_at(tmp_path, 1).extra == {"try": 2}
    assert sorted(path.name for path in checkpoint_root(tmp_path).iterdir()) == ["step_000001"]


def test_a_checkpoint_set_aside_by_a_crash_still_counts(tmp_path):
    # What a kill between the two renames of a replacement leaves: the old one aside, the new one unnamed.
    save(CheckpointStore(tmp_path, keep_last=1, keep_best=False), 1)
    root = checkpoint_root(tmp_path)
    (root / "step_000001").rename(root / ".old-step_000001")
    store = CheckpointStore(tmp_path, keep_last=1, keep_best=False)
    found = store.latest()
    assert found is not None and found.state.step == 1
    save(store, 1)
    assert sorted(path.name for path in root.iterdir()) == ["step_000001"]


def test_checkpoints_after_the_one_resumed_from_go_with_the_next_save(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=3, keep_best=True)
    for step, score in ((2, 0.1), (4, 0.9)):
        save(store, step, score)
    flip_a_bit(checkpoint_root(tmp_path) / "step_000004" / "master.safetensors")
    found = store.latest()
    assert found is not None and found.state.step == 2
    save(store, 3, 0.2)
    assert steps(tmp_path) == [2, 3]
    best = best_checkpoint(tmp_path)
    assert best is not None and best.state.step == 3


def test_leftovers_of_dead_runs_are_removed_at_the_next_start(tmp_path):
    save(CheckpointStore(tmp_path, keep_last=1, keep_best=False), 1)
    root = checkpoint_root(tmp_path)
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)  # from here on no process has this id
    for name in (f".tmp-2-{child}", f".tmp-3-{os.getpid()}", f".tmp-4-{os.getppid()}", ".old-step_000001"):
        (root / name).mkdir()
        (root / name / "half").write_text("x")
    (root / f".best.json.tmp-{child}").write_text("{")
    store = CheckpointStore(tmp_path, keep_last=1, keep_best=False)
    # The parent process lives, so its folder may be a save in progress.
    assert sorted(path.name for path in root.iterdir()) == [f".tmp-4-{os.getppid()}", "step_000001"]
    assert store.latest() is not None


def test_a_removal_cut_short_leaves_no_checkpoint_with_files_missing(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path, keep_last=1, keep_best=False)
    save(store, 1)

    def remove_half(directory):
        (directory / "master.safetensors").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(store_module.shutil, "rmtree", remove_half)
    with pytest.raises(KeyboardInterrupt):
        save(store, 2)
    assert list(list_checkpoints(tmp_path)) == [2]
    assert checkpoint_at(tmp_path, 2).state.step == 2


def save_forever(run_dir, first_step, report):
    """What the child of the kill test does: save every step twice, and report each to the parent once it is saved.

    No tensors: a forked torch may hang. No flushing: a kill does not need it, and without it a kill more often hits the
    moments between two renames or removals.
    """
    store_module.sync_file = store_module.sync_directory = lambda path: None
    store = CheckpointStore(run_dir, keep_last=2, keep_best=True)
    for step in range(first_step, 10**6):

        def write(directory, step=step):
            for part in range(3):
                (directory / f"part_{part}.bin").write_bytes(step.to_bytes(4, "little") * 5_000)

        for _ in range(2):
            store.save(RunState(step=step), write, {"step": step}, score=(step * 7 % 11) / 11)
            os.write(report, step.to_bytes(4, "little"))


def run_until_killed(run_dir, first_step, rng):
    """Return the last step that a child had saved when it was killed; 0 if it had saved none."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            save_forever(run_dir, first_step, writer)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    os.close(writer)
    # Mostly after a first save, so that a busy machine gets on too; now and then during it.
    first = os.read(reader, 4) if rng.random() < 0.8 else b""
    time.sleep(rng.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the child failed by itself"
    with os.fdopen(reader, "rb") as file:
        return int.from_bytes((first + file.read())[-4:], "little")


def test_a_kill_at_any_moment_leaves_a_complete_latest_checkpoint(tmp_path):
    rng = random.Random(0)
    reached = 0
    for _ in range(60):
        saved = run_until_killed(tmp_path, reached + 1, rng)
        store = CheckpointStore(tmp_path, keep_last=2, keep_best=True)
        assert [path.name for path in checkpoint_root(tmp_path).iterdir() if ".tmp" in path.name] == []
        found = store.latest()
        if found is None:
            assert saved == reached == 0
            continue
        assert found.skipped == {}
        assert found.state.step >= max(reached, saved), "a checkpoint that was there is gone"
        reached = found.state.step
        assert found.extra == {"step": reached}
        for part in range(3):
            assert (found.directory / f"part_{part}.bin").read_bytes() == reached.to_bytes(4, "little") * 5_000
        for directory in list_checkpoints(tmp_path).values():
            verify_checkpoint(directory)
        best = best_checkpoint(tmp_path)
        assert best is None or best.extra == {"step": best.state.step}
    assert reached >= 40


def test_the_weights_hash_depends_on_names_shapes_and_bits_alone(tmp_path):
    def hashed(folder, tensors, metadata=None):
        (tmp_path / folder).mkdir()
        save_file(tensors, tmp_path / folder / "master.safetensors", metadata)
        return weights_hash(tmp_path / folder)

    weights = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(1)}
    same = hashed("plain", weights)
    assert hashed("metadata", weights, {"kind": "master"}) == same
    assert hashed("renamed", {"a": weights["a"], "c": weights["b"]}) != same
    assert hashed("reshaped", {"a": weights["a"].reshape(3, 2), "b": weights["b"]}) != same
    changed = weights["a"].clone()
    changed[1, 2] = torch.nextafter(changed[1, 2], torch.tensor(9.0))
    assert hashed("one_bit", {"a": changed, "b": weights["b"]}) != same


def test_the_weights_hash_of_nothing_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match=r"master\.safetensors: no such file"):
        weights_hash(tmp_path)
    (tmp_path / "master.safetensors").write_bytes(b"12345678901")
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        weights_hash(tmp_path)
