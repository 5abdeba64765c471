"""All checks in order."""

from collections.abc import Iterator
from pathlib import Path

import effopd
from effopd.checkpoints.manifest import checkpoint_root
from effopd.config.check import needs_teacher
from effopd.config.evaluation import verifier_names
from effopd.config.schema import RunConfig
from effopd.doctor import agreement, distillation, engines, machine, sizes, versions
from effopd.doctor.finding import Finding, Status, guarded, skipped
from effopd.errors import ConfigError
from effopd.preflight import ModelFiles
from effopd.weights import shared_memory_folder

NO_STUDENT = "the student cannot be read"


def examine(config: RunConfig, start: engines.StartRoles | None) -> Iterator[Finding]:
    """Yield every finding as it is made; none of them ends the examination. `start` starts the roles, None leaves out
    what needs them."""
    yield guarded(
        "packages",
        lambda: versions.check_packages(versions.own_requirements(), versions.installed_version, config.rollout.engine),
    )
    yield guarded("GPU driver", lambda: versions.check_driver(config.cluster.device, versions.read_gpu_facts()))
    student, finding = agreement.read_model("model.path", config.model.path, config)
    yield finding
    teacher = None
    if needs_teacher(config):
        teacher, finding = agreement.read_model("teacher.path", config.teacher.path, config)
        yield finding
        yield from agreement.pair_findings(student, teacher, config)
    elif student is not None:
        yield from agreement.student_findings(student, config)
    if teacher is not None:
        yield guarded(
            "teacher memory",
            lambda: distillation.check_teacher_memory(teacher, config, distillation.device_memory(config)),
        )
    if student is not None and teacher is not None:
        yield from distillation.distillation_findings(student, teacher, config)
    yield from machine_findings(student, config)
    package = Path(effopd.__file__).parent
    yield guarded("clock", lambda: machine.check_clock(machine.read_clock_facts(package)))
    yield guarded("write speed", lambda: _write_speed(student, config))
    if student is None or start is None:
        yield from engines.unasked_findings()
    else:
        yield from engines.engine_findings(config, start)


def machine_findings(student: ModelFiles | None, config: RunConfig) -> Iterator[Finding]:
    """What is quick enough to be looked at before every launch."""
    folder = run_folder_of(config)
    if student is None:
        yield skipped("disk space", NO_STUDENT)
        yield skipped("shared memory", NO_STUDENT)
    else:
        yield guarded(
            "disk space",
            lambda: machine.check_disk(
                folder,
                sizes.checkpoint_bytes(student, config),
                sizes.num_checkpoints(config),
                # The run's own checkpoints make room for those that replace them.
                machine.free_bytes(folder) + machine.bytes_below(checkpoint_root(folder)),
            ),
        )
        place = shared_memory_folder()
        yield guarded(
            "shared memory",
            lambda: machine.check_shared_memory(place, sizes.segment_bytes(student, config), machine.free_bytes(place)),
        )
    yield guarded("sandbox", lambda: machine.check_sandbox(verifier_names(config)))


def require_sound_machine(student: ModelFiles, config: RunConfig) -> None:
    """Raise ConfigError with one line per check of the machine that fails."""
    failures = [one for one in machine_findings(student, config) if one.status is Status.failed]
    if failures:
        raise ConfigError("\n".join(f"{one.name}: {one.message}; {one.remedy}" for one in failures))


def run_folder_of(config: RunConfig) -> Path:
    """Return where the run would write, or the folder that its own would be made in."""
    return Path(config.resume or config.output_dir or Path("runs", config.name)).expanduser()


def _write_speed(student: ModelFiles | None, config: RunConfig) -> Finding:
    if student is None:
        return skipped("write speed", NO_STUDENT)
    speed = machine.measure_write_speed(run_folder_of(config))
    return machine.check_write_speed(sizes.checkpoint_bytes(student, config), config.checkpoint.every, speed)
