"""The timeline of a run: valid for Perfetto, one lane per role."""

import json
from pathlib import Path

import pytest

from effopd.timeline import Lane, LanesHere, Span, write_timeline, written_timeline


def events_of(path: Path) -> list[dict]:
    return json.loads(path.read_text())["traceEvents"]


def test_spans_become_complete_events_in_microseconds_on_a_named_thread_each_lane(tmp_path: Path) -> None:
    path = tmp_path / "timeline.json"
    write_timeline(path, {"driver": [], "sampler 0": [Span(name="generate", start=2.5, seconds=0.25)]})
    names = {event["tid"]: event["args"]["name"] for event in events_of(path) if event["name"] == "thread_name"}
    assert names == {0: "driver", 1: "sampler 0"}
    (span,) = [event for event in events_of(path) if event["ph"] == "X"]
    assert span == {"ph": "X", "name": "generate", "pid": 0, "tid": 1, "ts": 2_500_000, "dur": 250_000}


def test_a_lane_keeps_nothing_before_it_begins_and_forgets_when_it_begins_again() -> None:
    lane = Lane()
    with lane.span("unseen"):
        pass
    assert lane.spans() == ()
    lane.begin()
    with lane.span("outer"), lane.span("inner"):
        pass
    inner, outer = lane.spans()
    assert (inner.name, outer.name) == ("inner", "outer")
    assert outer.seconds >= inner.seconds >= 0
    lane.begin()
    assert lane.spans() == ()


def test_a_run_that_fails_leaves_its_timeline_and_the_span_that_it_failed_in(tmp_path: Path) -> None:
    driver, sampler = Lane(), Lane()
    with (
        pytest.raises(RuntimeError),
        written_timeline(tmp_path / "timeline.json", driver, LanesHere({"sampler 0": sampler})),
        driver.span("generate"),
        sampler.span("generate"),
    ):
        raise RuntimeError
    assert [event["tid"] for event in events_of(tmp_path / "timeline.json") if event["ph"] == "X"] == [0, 1]
