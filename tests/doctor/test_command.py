"""`effopd doctor` as it is typed, and its part in a launch."""

import json
from pathlib import Path

import pytest

from effopd import launch
from effopd.cli import main
from effopd.doctor import examination, machine
from effopd.doctor.finding import failed, guarded, of_error, passed
from effopd.doctor.report import as_text
from effopd.errors import ConfigError

LOCAL = ["experiment=toy_opd", "cluster=local", "rollout=hf"]


def test_a_sound_setting_ends_with_0_and_a_line_per_check(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["doctor", *LOCAL, f"output_dir={tmp_path / 'run'}"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert len(lines) == 21
    assert {line.split()[0] for line in lines} == {"pass", "skip"}
    assert last.endswith(" 0 failed")
    assert list(tmp_path.iterdir()) == []


def test_with_json_a_program_can_read_it_and_a_failure_ends_with_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    # The teacher is the student.
    code = main(["doctor", "--json", *LOCAL, "teacher.path=toy:sums_base", f"output_dir={tmp_path / 'run'}"])
    findings = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert code == 2
    assert findings["teacher divergence"]["status"] == "FAIL"
    assert findings["teacher divergence"]["remedy"] == "type another teacher.path"
    assert findings["model.path"]["status"] == "pass"


def test_a_wrong_setting_is_one_line_as_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", *LOCAL, "learner.lrr=1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["doctor", "--engine"]) == 2
    assert "effopd doctor --help" in capsys.readouterr().err


def test_settings_are_completed_as_for_train(capsys: pytest.CaptureFixture[str]) -> None:
    main(["completion", "query", "effopd doctor accelerate=kl_g"])
    assert capsys.readouterr().out == "accelerate=kl_gated\n"


def test_a_launch_on_a_machine_that_cannot_hold_the_run_is_refused_with_the_arithmetic(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*arguments: object) -> None:
        raise AssertionError("nothing may start")

    monkeypatch.setattr(launch, "start", start)
    monkeypatch.setattr(machine, "free_bytes", lambda folder: 1000)
    assert main(["train", *LOCAL, f"output_dir={tmp_path / 'run'}"]) == 2
    lines = capsys.readouterr().err.splitlines()
    # 338,496 parameters in float32: 3 copies are 3.9 MiB, and two checkpoints, the best and the next one are kept.
    assert [line.partition(": ")[2].partition(":")[0] for line in lines] == ["disk space", "shared memory"]
    assert "4 checkpoints of 3.9 MiB are 15.5 MiB" in lines[0] and "1000 B free" in lines[0]
    assert not (tmp_path / "run").exists()


def test_a_check_that_breaks_is_a_finding_and_the_others_go_on(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(folder: Path) -> float:
        raise OSError("no space left")

    monkeypatch.setattr(examination.machine, "measure_write_speed", broken)
    assert main(["doctor", *LOCAL, f"output_dir={tmp_path / 'run'}"]) == 2
    out = capsys.readouterr().out
    assert "FAIL  write speed          the check itself failed (OSError: no space left)" in out
    assert out.splitlines()[-1] == "15 passed, 5 skipped, 1 failed"


def test_an_error_is_parted_into_what_is_wrong_and_what_to_type() -> None:
    def check() -> None:
        raise ConfigError("a=1: must be 2; it is odd; type a=2")

    finding = guarded("a", check)  # pyright: ignore[reportArgumentType]
    assert (
        finding
        == failed("a", "a=1: must be 2; it is odd", "type a=2")
        == of_error("a", ConfigError("a=1: must be 2; it is odd; type a=2"))
    )
    assert as_text(finding).splitlines() == [f"FAIL  a{' ' * 20}a=1: must be 2; it is odd", f"{' ' * 27}-> type a=2"]
    assert as_text(passed("a", "well")) == f"pass  a{' ' * 20}well"
