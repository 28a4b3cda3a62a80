"""When checkpoints are due."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topoflow.config.schedule import Schedule

reproducible = settings(deadline=None, derandomize=True, max_examples=200)

schedules = st.builds(
    Schedule,
    every=st.integers(0, 30),
    dense_until=st.integers(0, 60),
    dense_every=st.integers(1, 10),
    steps=st.lists(st.integers(0, 150), max_size=5).map(tuple),
    log=st.booleans(),
)


@reproducible
@given(schedule=schedules, max_steps=st.integers(0, 120))
def test_checkpoints_increase_from_the_first_step_to_the_last_and_are_what_is_due(schedule, max_steps):
    checkpoints = schedule.checkpoints(max_steps)
    assert checkpoints[0] == 0
    assert checkpoints[-1] == max_steps
    assert list(checkpoints) == sorted(set(checkpoints))
    # all that is due, nothing else but the last
    assert set(checkpoints) == {s for s in range(max_steps + 1) if schedule.is_due(s)} | {max_steps}


@reproducible
@given(schedule=schedules, step=st.integers(0, 150))
def test_a_step_is_due_when_one_of_the_rules_says_so(schedule, step):
    expected = {0, *schedule.steps}
    if schedule.every:
        expected |= set(range(0, 151, schedule.every))
    expected |= set(range(0, schedule.dense_until + 1, schedule.dense_every))
    if schedule.log:
        expected |= {1, 2, 4, 8, 16, 32, 64, 128}
    assert schedule.is_due(step) == (step in expected)


@reproducible
@given(schedule=schedules, shorter=st.integers(0, 60), more=st.integers(0, 60))
def test_a_longer_training_has_the_checkpoints_of_a_shorter_one_except_its_end(schedule, shorter, more):
    assert set(schedule.checkpoints(shorter)[:-1]) <= set(schedule.checkpoints(shorter + more))


def test_without_rules_only_the_first_and_the_last_step_are_recorded():
    assert Schedule().checkpoints(100) == (0, 100)
    assert Schedule().checkpoints(0) == (0,)


def test_steps_after_the_last_are_not_recorded():
    assert Schedule(steps=(3, 11)).checkpoints(10) == (0, 3, 10)


def test_the_dense_part_ends_with_the_step_it_names():
    assert Schedule(dense_until=6, dense_every=3).checkpoints(10) == (0, 3, 6, 10)
    assert Schedule(dense_until=5, dense_every=3).checkpoints(10) == (0, 3, 10)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("every", -1, "every must be at least 0, got -1"),
        ("dense_until", -2, "dense_until must be at least 0, got -2"),
        ("dense_every", 0, "dense_every must be at least 1, got 0"),
        ("steps", (4, -1), r"steps must be optimiser steps, 0 or later, got \[4, -1\]"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(field, value, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Schedule(**{field: value})


def test_a_schedule_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Schedule().every = 3  # type: ignore[misc]
