"""When checkpoints are due."""

import dataclasses
import math
from itertools import accumulate, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import refused

from topoflow.config.schedule import Schedule
from topoflow.dynamics.twins import find_twins
from topoflow.errors import InvalidArgument

reproducible = settings(deadline=None, derandomize=True, max_examples=200)

schedules = st.builds(
    Schedule,
    every=st.integers(0, 30),
    dense_until=st.integers(0, 60),
    dense_every=st.integers(1, 10),
    steps=st.lists(st.integers(0, 150), max_size=5).map(tuple),
    log=st.booleans(),
    twins=st.just(0),
)


@reproducible
@given(schedule=schedules, max_steps=st.integers(0, 120))
def test_checkpoints_increase_from_the_first_step_to_the_last_and_are_what_is_due(schedule, max_steps):
    checkpoints = schedule.checkpoints(max_steps)
    assert checkpoints[0] == 0
    assert checkpoints[-1] == max_steps
    assert list(checkpoints) == sorted(set(checkpoints))


@reproducible
@given(schedule=schedules, max_steps=st.integers(0, 150))
def test_a_step_is_a_checkpoint_when_one_of_the_rules_says_so(schedule, max_steps):
    expected = {0, *schedule.steps}
    if schedule.every:
        expected |= set(range(0, 151, schedule.every))
    expected |= set(range(0, schedule.dense_until + 1, schedule.dense_every))
    if schedule.log:
        expected |= {1, 2, 4, 8, 16, 32, 64, 128}
    expected = {step for step in expected if step < max_steps} | {max_steps}
    assert schedule.checkpoints(max_steps) == tuple(sorted(expected))


@reproducible
@given(schedule=schedules, shorter=st.integers(0, 60), more=st.integers(0, 60))
def test_a_longer_training_has_the_checkpoints_of_a_shorter_one_except_its_end(schedule, shorter, more):
    assert set(schedule.checkpoints(shorter)[:-1]) <= set(schedule.checkpoints(shorter + more))


def test_without_rules_only_the_first_and_the_last_step_are_recorded():
    assert Schedule(twins=0).checkpoints(100) == (0, 100)
    assert Schedule(twins=0).checkpoints(0) == (0,)


def test_steps_after_the_last_are_not_recorded():
    assert Schedule(steps=(3, 11)).checkpoints(10) == (0, 3, 10)


def test_the_dense_part_ends_with_the_step_it_names():
    assert Schedule(dense_until=6, dense_every=3).checkpoints(10) == (0, 3, 6, 10)
    assert Schedule(dense_until=5, dense_every=3).checkpoints(10) == (0, 3, 10)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("every", -1, "at least 0"),
        ("twins", -1, "at least 0"),
        ("clock", "loss", "'learning_rate' or 'steps'"),
        ("dense_until", -2, "at least 0"),
        ("dense_every", 0, "at least 1"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(field, value, expected):
    with pytest.raises(InvalidArgument) as caught:
        Schedule(**{field: value})
    assert (caught.value.name, caught.value.expected, caught.value.got) == (field, expected, value)


def test_a_schedule_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Schedule().every = 3  # type: ignore[misc]


# --- twins --------------------------------------------------------------------------------------


def test_twins_are_recorded_unless_something_else_is_asked_for():
    assert Schedule() == Schedule(twins=13) == Schedule(clock="learning_rate")
    assert Schedule(triplets=True).twins == 13
    for other in ({"every": 8}, {"dense_until": 4}, {"steps": (0,)}, {"log": True}, {"twins": 0}):
        assert Schedule(**other).twins == 0, other
        assert Schedule(**{**other, "twins": 13}).twins == 13


RATES = {
    "constant": [0.002] * 48,
    "linear": [0.002 * (1 - step / 48) for step in range(48)],
    "cosine": [0.001 * (1 + math.cos(math.pi * step / 48)) for step in range(48)],
    "warm-up": [0.002 * min(step / 6, (48 - step) / 42) for step in range(48)],
}

twins = st.builds(Schedule, twins=st.integers(2, 20), triplets=st.booleans())
some_rates = st.lists(st.floats(0, 1e-2), max_size=150)


@pytest.mark.parametrize("name", RATES)
def test_anchors_are_even_in_the_sum_of_the_rates_to_within_one_step(name):
    rates = RATES[name]
    elapsed = [0.0, *accumulate(rates)]
    anchors = Schedule(twins=9).anchors(48, rates)
    assert (len(anchors), anchors[0], anchors[-1]) == (9, 0, 47)
    for k, anchor in enumerate(anchors):
        assert elapsed[anchor] == pytest.approx(elapsed[47] * k / 8, abs=max(rates))


def test_a_decaying_rate_puts_anchors_early_and_the_clock_of_steps_does_not():
    early = [sum(anchor <= 16 for anchor in Schedule(twins=13).anchors(48, RATES[name])) for name in RATES]
    assert early == [5, 7, 8, 6]
    for rates in RATES.values():
        by_steps = Schedule(twins=13, clock="steps").checkpoints(48, rates)
        assert (
            by_steps == Schedule(twins=13).checkpoints(48) == Schedule(twins=13).checkpoints(48, [3e-5] * 48)
        )
    assert Schedule(twins=13).checkpoints(48, [0.0] * 48) == by_steps  # a rate of zero says nothing of time


@reproducible
@given(schedule=twins, rates=some_rates)
def test_anchors_stand_apart_with_all_their_twins_and_are_as_many_as_fit(schedule, rates):
    together = 3 if schedule.triplets else 2
    anchors, checkpoints = schedule.anchors(len(rates), rates), schedule.checkpoints(len(rates), rates)
    assert list(checkpoints) == sorted({0, len(rates), *(a + i for a in anchors for i in range(together))})
    assert all(later - earlier >= together for earlier, later in pairwise(anchors))
    assert len(anchors) == min(schedule.twins, (len(rates) + 1) // together)
    assert len(anchors) == len(schedule.anchors(len(rates)))  # without the rates their number is known
    if len(anchors) > 1:
        assert (anchors[0], anchors[-1]) == (0, len(rates) + 1 - together)
        assert len(checkpoints) == together * len(anchors)
        if not schedule.triplets:
            assert find_twins(checkpoints) == anchors  # as they are found again in what was recorded


def test_a_training_too_short_for_its_twins_has_as_many_as_fit():
    assert Schedule(twins=13).checkpoints(5) == (0, 1, 2, 3, 4, 5)
    assert Schedule(twins=13).checkpoints(4) == (0, 1, 3, 4)
    assert Schedule(twins=13, triplets=True).checkpoints(6) == (0, 1, 2, 4, 5, 6)
    assert Schedule(twins=13).checkpoints(1) == (0, 1)
    assert Schedule(twins=13, triplets=True).anchors(1) == Schedule(twins=13).anchors(0) == ()


def test_twins_stand_beside_what_the_other_fields_record():
    assert Schedule(every=5, twins=2, clock="steps").checkpoints(12) == (0, 1, 5, 10, 11, 12)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("steps[1]", lambda: Schedule(steps=(4, -1))),
        ("twins", lambda: Schedule(twins=1)),
        ("triplets", lambda: Schedule(every=8, triplets=True)),
        ("learning_rates", lambda: Schedule(twins=3).checkpoints(9, [0.1] * 8)),
        ("learning_rates", lambda: Schedule(twins=2).checkpoints(3, [0.1, math.nan, 0.1])),
        ("learning_rates", lambda: Schedule(twins=3).checkpoints(9, [-0.1] * 9)),
    ],
)
def test_twins_that_cannot_be_are_refused_by_name(name, given):
    with refused(name=name):
        given()


def test_numpys_whole_numbers_are_whole_numbers_and_its_booleans_are_not():
    found = Schedule(every=np.int64(4), steps=(np.int32(3),))
    assert found == Schedule(every=4, steps=(3,))
    assert {type(found.every), type(found.steps[0])} == {int}
    for wrong in (True, np.bool_(True), 4.0, "4"):
        with pytest.raises(InvalidArgument) as caught:
            Schedule(every=wrong)
        assert (caught.value.name, caught.value.expected) == ("every", "a whole number")
