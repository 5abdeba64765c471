"""The verifier pool, with real processes that really die."""

import datetime
import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy
import pytest

from effopd.errors import ConfigError, DataError, EffOPDError
from effopd.rewards.batch import MAX_DEATHS, MAX_KILLS, Item
from effopd.rewards.pool import VerifierPool
from effopd.rewards.verifier import load_verifier

HERE = Path(__file__).parent
OBEY = "pool_verifiers:obey"
LONG = 60.0  # seconds for an answer that is to have enough


@pytest.fixture(autouse=True)
def verifiers_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(HERE)


def commands(*responses: str, answer: str = "") -> list[Item]:
    return [(response, answer, {"prompt_id": f"p{index}"}) for index, response in enumerate(responses)]


def numbered(num: int) -> list[Item]:
    return [(f"response {index}", "", {}) for index in range(num)]


def expected_checksums(items: list[Item]) -> list[float]:
    return [load_verifier("pool_verifiers:checksum")(*item) for item in items]


@pytest.mark.parametrize("num_workers", [1, 2, 5])
def test_scores_come_in_order_whatever_the_number_of_workers(num_workers: int) -> None:
    items = numbered(70)
    with VerifierPool("pool_verifiers:checksum", num_workers, LONG) as pool:
        assert pool.scores(items) == expected_checksums(items)
        assert len(set(pool.worker_pids)) == num_workers


def test_no_items_have_no_scores_and_need_no_workers() -> None:
    with VerifierPool(OBEY, 2, LONG) as pool:
        assert pool.scores([]) == []
        assert pool.worker_pids == []


def test_a_started_pool_keeps_its_workers_from_batch_to_batch() -> None:
    with VerifierPool(OBEY, 2, LONG) as pool:
        pool.start()
        pids = pool.worker_pids
        assert pool.scores(commands("well", "well")) == [1.0, 1.0]
        assert pool.worker_pids == pids


def test_items_larger_than_a_pipe_pass() -> None:
    items: list[Item] = [("score", "0.25", {"tests": "x" * 1_000_000}) for _ in range(6)]
    with VerifierPool(OBEY, 2, LONG) as pool:
        assert pool.scores(items) == [0.25] * 6


def test_an_answer_that_overruns_scores_0_and_costs_its_worker_its_life(tmp_path: Path) -> None:
    items = commands("well", "hang", *["well"] * 20, answer=str(tmp_path / "begun"))
    with VerifierPool(OBEY, 1, 3.0) as pool:
        pool.start()
        (pid,) = pool.worker_pids
        assert pool.scores(items) == [1.0, 0.0, *[1.0] * 20]
        assert (pool.num_overruns, pool.num_deaths) == (1, 0)
        assert pool.worker_pids != [pid] and not is_alive(pid)


def test_what_a_dead_worker_left_unjudged_is_judged_by_another(tmp_path: Path) -> None:
    items = commands(*["well"] * 40, "die once", *["well"] * 40, answer=str(tmp_path / "died"))
    with VerifierPool(OBEY, 2, LONG) as pool:
        assert pool.scores(items) == [1.0] * 81
        assert (pool.num_deaths, pool.num_given_up) == (1, 0)


def test_an_answer_that_kills_every_worker_scores_0_and_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    items = commands(*["well"] * 5, "die", *["well"] * 40)
    with VerifierPool(OBEY, 2, LONG) as pool, caplog.at_level(logging.WARNING):
        assert pool.scores(items) == [*[1.0] * 5, 0.0, *[1.0] * 40]
        assert (pool.num_deaths, pool.num_given_up, pool.num_overruns) == (MAX_DEATHS, 1, 0)
    (record,) = caplog.records
    assert "prompt p5 scores 0" in record.getMessage() and "killed by signal 11" in record.getMessage()


def test_workers_killed_from_outside_do_not_cost_an_answer_its_score(tmp_path: Path) -> None:
    # More kills than the crashes that an answer may cause.
    assert MAX_DEATHS < 5 < MAX_KILLS
    with VerifierPool(OBEY, 1, LONG) as pool:
        assert pool.scores(commands("be killed five times", answer=str(tmp_path / "kills"))) == [1.0]
        assert (pool.num_deaths, pool.num_given_up) == (5, 0)


def test_an_answer_in_which_every_worker_is_killed_is_an_error_that_names_its_prompt() -> None:
    with VerifierPool(OBEY, 1, LONG) as pool, pytest.raises(EffOPDError, match=r"^prompt p1: 10 .* signal 9 .* memory"):
        pool.scores(commands("well", "be killed", "well"))


def test_killing_workers_at_random_changes_no_score() -> None:
    items = numbered(600)  # 3 s of work
    with VerifierPool("pool_verifiers:checksum", 2, LONG) as pool:
        pool.start()
        is_over = threading.Event()

        def kill_now_and_then() -> None:
            while not is_over.wait(0.2):
                os.kill(random.choice(pool.worker_pids), signal.SIGKILL)

        killer = threading.Thread(target=kill_now_and_then)
        killer.start()
        try:
            scores = pool.scores(items)
        finally:
            is_over.set()
            killer.join()
        assert pool.num_deaths > 0
    assert scores == expected_checksums(items)


def test_a_worker_that_died_idle_is_replaced() -> None:
    with VerifierPool(OBEY, 1, LONG) as pool:
        pool.start()
        (pid,) = pool.worker_pids
        os.kill(pid, signal.SIGKILL)
        assert pool.scores(commands("well")) == [1.0]
        assert pool.worker_pids != [pid]


def test_a_child_that_a_verifier_leaves_behind_goes_with_its_worker() -> None:
    with VerifierPool(OBEY, 1, LONG) as pool:
        assert pool.scores(commands("fork")) == [1.0]
        (pid,) = pool.worker_pids
        (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        os.kill(pid, signal.SIGKILL)  # the child still holds the worker's end of the pipes
        assert pool.scores(commands("well")) == [1.0]
    wait_until_dead([int(child)])


@pytest.mark.parametrize("num_workers", [1, 3])
def test_an_exception_of_the_verifier_is_an_error_that_names_the_first_prompt(num_workers: int) -> None:
    items = commands(*["well"] * 7, "raise", *["well"] * 30, "raise")
    with VerifierPool(OBEY, num_workers, LONG) as pool:
        with pytest.raises(DataError, match=r"^prompt p7: the verifier failed: ValueError: no such thing$"):
            pool.scores(items)
        assert pool.scores(commands("well", "well")) == [1.0, 1.0]


def test_a_verifier_that_exits_is_an_error_too() -> None:
    with VerifierPool(OBEY, 1, LONG) as pool, pytest.raises(DataError, match=r"prompt p1.*SystemExit: 3"):
        pool.scores(commands("well", "exit"))


@pytest.mark.parametrize("score", ["1.5", "-0.1", "nan", "inf"])
def test_a_score_outside_0_to_1_is_an_error(score: str) -> None:
    with VerifierPool(OBEY, 1, LONG) as pool, pytest.raises(DataError, match=rf"prompt p0.*{score}.*\[0, 1\]"):
        pool.scores(commands("score", answer=score))


def test_a_verifier_that_returns_nothing_is_an_error() -> None:
    with VerifierPool("pool_verifiers:returns_nothing", 1, LONG) as pool, pytest.raises(DataError, match="TypeError"):
        pool.scores(commands("well"))


def test_what_a_verifier_prints_is_not_taken_for_a_reply() -> None:
    with VerifierPool(OBEY, 1, LONG) as pool:
        assert pool.scores(commands("talk", "score", answer="0.5")) == [1.0, 0.5]


def test_a_worker_calls_start_worker_first_and_does_not_load_torch() -> None:
    with VerifierPool(OBEY, 1, LONG) as pool:
        assert pool.scores(commands("is started", "is torch loaded")) == [1.0, 0.0]


@pytest.mark.parametrize(
    "name", ["no_such_package.module:f", "pool_verifiers:missing", "pool_verifiers:not_a_function", "broken:f"]
)
def test_a_verifier_that_cannot_be_had_is_refused_as_load_verifier_does(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.py").write_text("undefined_name\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError) as refused:
        load_verifier(name)
    with VerifierPool(name, 2, LONG) as pool, pytest.raises(ConfigError) as raised:
        pool.start()
    assert str(raised.value) == str(refused.value)
    assert str(raised.value).startswith(f"data.verifier={name}: ") and "\n" not in str(raised.value)


def test_a_module_that_kills_its_worker_is_refused_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deadly.py").write_text("import os; print('goodbye', flush=True); os._exit(7)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with VerifierPool("deadly:f", 1, LONG) as pool, pytest.raises(ConfigError, match=r"(?s)exit code 7.*goodbye"):
        pool.start()


def test_a_machine_without_a_sandbox_is_refused_when_the_pool_of_the_code_verifier_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with VerifierPool("effopd.rewards.code:verify", 1, LONG) as pool, pytest.raises(ConfigError) as raised:
        pool.start()
    message = str(raised.value)
    assert message.startswith("data.verifier=effopd.rewards.code:verify: ") and "apt-get install bubblewrap" in message
    assert "\n" not in message


def test_metadata_that_json_does_not_know_is_converted() -> None:
    metadata = {
        "count": numpy.int64(3),
        "numbers": numpy.array([1.5, 2.0]),
        "pair": (1, 2),
        "day": datetime.date(2024, 2, 29),
        "raw": b"x",
        "half a pair": "\ud800",
    }
    seen = {
        "count": 3,
        "numbers": [1.5, 2.0],
        "pair": [1, 2],
        "day": "2024-02-29",
        "raw": "b'x'",
        "half a pair": "\ud800",
    }
    with VerifierPool(OBEY, 1, LONG) as pool:
        assert pool.scores([("metadata", json.dumps(seen), metadata)]) == [1.0]


def test_metadata_that_cannot_be_converted_is_an_error_that_names_the_prompt() -> None:
    with VerifierPool(OBEY, 1, LONG) as pool, pytest.raises(DataError, match=r"^prompt p3: its metadata .* drop"):
        pool.scores([("well", "", {"prompt_id": "p3", "table": {("a", "b"): 1}})])


def test_a_pool_can_be_closed_twice_and_used_again() -> None:
    pool = VerifierPool(OBEY, 2, LONG)
    pool.start()
    pids = pool.worker_pids
    pool.close()
    pool.close()
    assert not any(is_alive(pid) for pid in pids)
    assert pool.scores(commands("well")) == [1.0]
    pool.close()


def test_workers_do_not_outlive_a_killed_parent_even_in_the_middle_of_an_answer(tmp_path: Path) -> None:
    code = (
        "from effopd.rewards.pool import VerifierPool\n"
        f"pool = VerifierPool({OBEY!r}, 2, 1000.0)\n"
        "pool.start()\n"
        "print(*pool.worker_pids, flush=True)\n"
        f"pool.scores([('hang', {str(tmp_path / 'begun')!r}, {{}})])\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    while not (tmp_path / "begun").exists():
        assert parent.poll() is None
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until_dead(pids)


def wait_until_dead(pids: list[int]) -> None:
    for _ in range(600):
        if not any(is_alive(pid) for pid in pids):
            return
        time.sleep(0.1)
    raise AssertionError(f"still alive after 60 s: {[pid for pid in pids if is_alive(pid)]}")


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and is not reaped does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"
