"""Why an actor died, as far as anybody can tell: what Ray says, the last lines of its log, and what they point to."""

import re
from collections import deque
from pathlib import Path

import ray
from ray.exceptions import RayError

NUM_LOG_LINES = 12

_CAUSES = (
    (
        r"CUDA out of memory|CUDA_ERROR_OUT_OF_MEMORY|OutOfMemoryError: CUDA",
        "out of GPU memory: lower learner.max_tokens_per_microbatch or rollout.gpu_memory_utilization",
    ),
    (
        r"running low on memory|OutOfMemoryError|Cannot allocate memory|can't allocate memory|bad_alloc|MemoryError",
        "out of memory: give the machine more, or see `effopd plan` for what to lower",
    ),
    (r"No space left on device|ENOSPC|OutOfDisk", "the disk is full: free some of it"),
    (r"SIGBUS|Bus error", "shared memory is full: free some, or give the container more (docker run --shm-size)"),
    (r"NCCL (?:error|WARN)|ncclSystemError|ncclRemoteError", "NCCL: look at the network between the GPUs"),
    (r"SIGSEGV|Segmentation fault|Fatal Python error", "a crash in native code: see the stack in its log"),
    (r"killed by `ray\.kill`", "it did not answer within cluster.hang_seconds: see hangs.txt in the run folder"),
    (r"[Nn]ode (?:was )?(?:died|dead|terminated|preempted)|node has died", "its machine is gone"),
)
"""What logs say, and what that means with a remedy; the first that fits counts."""

_LIKELIEST = "killed from outside, most often because the machine ran out of memory (see dmesg)"


def account_of_death(error: RayError) -> str:
    """Return what is known of a death: the likely cause, where the process was, and the end of its log if it is at hand."""
    text = str(error)
    where = [f"process {pid}" for pid in re.findall(r"^\s*pid: (\d+)$", text, re.MULTILINE)[:1]]
    where += [f"node {ip}" for ip in re.findall(r"^\s*ip: (\S+)$", text, re.MULTILINE)[:1]]
    lines = _last_lines(where[0].removeprefix("process ")) if where and where[0].startswith("process") else []
    # Ray's own list of common causes is the same whatever happened.
    said = text.partition("Some common causes include")[0].strip()
    account = f"likely cause: {likely_cause([said, *lines])}"
    if where:
        account += f"; it was {' on '.join(where)}"
    if lines:
        return f"{account}; its log ends with\n" + "\n".join(f"  {line}" for line in lines)
    return f"{account}; Ray says: {' '.join(said.split())}"


def likely_cause(texts: list[str]) -> str:
    """Return what the words of Ray and of a log point to."""
    joined = "\n".join(texts)
    return next((cause for pattern, cause in _CAUSES if re.search(pattern, joined)), _LIKELIEST)


def _last_lines(pid: str) -> list[str]:
    """Return the last lines that a process on this machine wrote; none where its log is on another."""
    context = ray.get_runtime_context()
    logs = Path(context.get_temp_dir(), context.get_session_name(), "logs")
    for path in sorted(logs.glob(f"worker-*-{pid}.err")):
        with path.open(errors="replace") as log:
            # Ray's own lines to itself begin with a colon.
            return list(deque((line.rstrip() for line in log if line.strip() and line[0] != ":"), NUM_LOG_LINES))
    return []
