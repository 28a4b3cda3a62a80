"""What topology adds to simpler measures: planted truth, and each part of the prediction against another's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler
from support import refused

from topoflow.dynamics.added import (
    _PENALTIES,
    MARGIN,
    Measured,
    Numbers,
    _credit,
    _over_seeds,
    _predicted,
    added_to_intervals,
    added_to_labels,
)

N_LAYERS, N_STEPS = 3, 21
LABELS = ("a", "b", "c")


def planted(
    seed: int, told_by: str, n_seeds: int = 6, labels: tuple[str, ...] = LABELS, told: float = 0.0
) -> list[Measured]:
    """Runs whose simple ways see one hidden speed, and whose topology sees that one and another; all fall with time.

    `told_by` names what the target follows: simple, topology, time or nothing. `told` is by how much the label shifts
    what topology alone sees, or with "simple" both.
    """
    rng = np.random.default_rng(seed)
    clock = np.cumsum(np.concatenate([[0.0], np.tile([0.2, 1.8], N_STEPS // 2)]))
    falls = -2 * np.linspace(0, 1, N_STEPS - 1)
    runs = []
    for number in range(n_seeds):
        shared = rng.normal(size=N_STEPS - 1)
        for place, label in enumerate(labels):
            seen = falls + 0.5 * shared + 0.7 * rng.normal(size=N_STEPS - 1)
            hidden = falls + 0.7 * rng.normal(size=N_STEPS - 1)
            target = {"simple": seen, "topology": hidden, "time": falls, "nothing": 0 * seen}[told_by]
            target = target + 0.3 * rng.normal(size=N_STEPS - 1)
            if told:
                hidden = hidden + told * place
                seen = seen + told * place * (told_by == "simple")

            def noisy(of: np.ndarray) -> np.ndarray:
                return np.exp(of + 0.3 * rng.normal(size=(N_LAYERS, N_STEPS - 1)))

            def walks() -> dict[str, np.ndarray]:
                return {f"walk {n}": rng.normal(size=(N_LAYERS, N_STEPS)).cumsum(axis=1) for n in range(4)}

            simple = Numbers({f"way {n}": noisy(seen) for n in range(4)}, walks())
            topology = Numbers(
                {f"seen {n}": noisy(seen) for n in range(3)}
                | {f"hidden {n}": noisy(hidden) for n in range(3)},
                walks(),
            )
            runs.append(Measured(label, number, clock, simple, topology, {"target": np.exp(target)}))
    return runs


@pytest.mark.slow
@pytest.mark.parametrize("told_by", ["simple", "time", "nothing"])
def test_topology_adds_nothing_to_what_simpler_measures_or_time_tell(told_by):
    found = [added_to_intervals(planted(n, told_by), "target", n_permutations=1) for n in range(40)]
    assert sum(one.low > 0 for one in found) <= 2  # 5 %
    assert sum(one.sentence(0.05).startswith("topology adds nothing here") for one in found) >= 36
    if told_by == "simple":  # though topology tells it as well
        assert min(one.topology for one in found) > 0.7
    if told_by == "nothing":
        assert max(one.both for one in found) < 0.1


@pytest.mark.slow
def test_what_topology_alone_sees_is_found():
    for n in range(8):
        found = added_to_intervals(planted(n, "topology"), "target", n_permutations=39)
        assert found.verdict(0.05) == "supported"
        assert found.low > 0.1
        assert found.p == 1 / 40  # of the permutation, and that of the interval is smaller
        assert found.both > 0.7 > found.simple


def test_a_label_that_topology_alone_tells_is_found_and_one_that_both_tell_is_no_gain():
    alone = added_to_labels(planted(0, "nothing", told=3.0), n_permutations=39)
    assert alone.chance == pytest.approx(1 / 3)
    assert alone.simple < 0.7
    assert alone.topology > 0.8
    assert (alone.n_runs, alone.n_seeds) == (18, 6)
    assert alone.verdict(0.05) == "supported"
    told = added_to_labels(planted(0, "simple", told=3.0), n_permutations=39)
    assert told.simple > 0.9
    assert told.verdict(0.05) != "supported"


def test_where_all_seeds_say_the_same_the_runs_cannot_tell():
    found = added_to_labels(planted(0, "simple", labels=("a", "b"), told=9.0), n_permutations=9)
    assert (found.simple, found.both, found.gain) == (1.0, 1.0, 0.0)
    assert found.verdict(0.05) == "not supported"
    assert found.sentence(0.05) == "these runs cannot tell whether topology adds anything here"


def test_the_size_of_a_run_or_layer_plays_no_part_within_runs():
    runs = planted(1, "topology", n_seeds=3)
    grown = [
        replace(
            run,
            simple=Numbers({name: 7.0 * of for name, of in run.simple.ways.items()}, run.simple.states),
            targets={"target": 100 * run.targets["target"]},
        )
        if run.seed == 1
        else run
        for run in runs
    ]
    before, after = (added_to_intervals(of, "target", n_permutations=3) for of in (runs, grown))
    assert after.gain == pytest.approx(before.gain)
    assert after.simple == pytest.approx(before.simple)


def test_features_without_a_number_are_left_out_and_layers_without_one_are_passed_over():
    runs = planted(2, "simple", n_seeds=3)
    plain = added_to_intervals(runs, "target", n_permutations=1)
    some = runs[0].topology.ways["seen 0"].copy()
    some[1] = 0.0  # a constant layer
    none = np.full_like(some, np.nan)
    runs[0] = replace(
        runs[0],
        topology=Numbers({**runs[0].topology.ways, "seen 0": some, "seen 1": none}, runs[0].topology.states),
    )
    found = added_to_intervals(runs, "target", n_permutations=1)
    assert plain.left_out == ()
    assert found.left_out == ("seen 1",)
    runs[1] = replace(runs[1], topology=Numbers(runs[1].topology.ways, {}))  # other measures were chosen
    assert added_to_intervals(runs, "target", n_permutations=1).left_out[:2] == ("seen 1", "walk 0, change")
    assert found.simple == plain.simple


def test_a_change_that_has_a_sign_is_predicted_with_it():
    rng, runs = np.random.default_rng(3), []
    for run in planted(3, "nothing", n_seeds=4):
        level = rng.normal(size=(1, N_STEPS)).cumsum(axis=1)
        change = np.diff(level)[0] + 0.1 * rng.normal(size=N_STEPS - 1)
        topology = Numbers(run.topology.ways, {"level": level})
        runs.append(replace(run, topology=topology, targets={"loss": change}))
    found = added_to_intervals(runs, "loss", n_permutations=39)
    assert found.both > 0.9
    assert found.verdict(0.05) == "supported"


def test_predictions_are_those_of_scikit_learn_with_the_penalty_that_other_groups_choose():
    rng = np.random.default_rng(4)
    features = rng.normal(size=(40, 6)) * [1, 10, 0.1, 1, 1, 1] + 3
    wanted = (features @ rng.normal(size=6) + 2 * rng.normal(size=40))[:, None]
    groups = np.array_split(np.arange(40), 4)
    predicted = _predicted(features, wanted, groups)

    def fit(rows: np.ndarray, penalty: float, ask: np.ndarray) -> np.ndarray:
        scaler = StandardScaler().fit(features[rows])
        model = Ridge(alpha=penalty * len(rows)).fit(scaler.transform(features[rows]), wanted[rows, 0])
        return np.asarray(model.predict(scaler.transform(features[ask])))

    chosen, scores = set(), []
    for rows in groups:
        others = [other for other in groups if other is not rows]
        errors = []
        for penalty in _PENALTIES:
            error = 0.0
            for inner in others:
                learnt = np.concatenate([other for other in others if other is not inner])
                error += float(np.sum((fit(learnt, penalty, inner) - wanted[inner, 0]) ** 2))
            errors.append(error)
        penalty = float(_PENALTIES[int(np.argmin(errors))])
        chosen.add(penalty)
        learnt = np.concatenate(others)
        assert predicted[rows, 0] == pytest.approx(fit(learnt, penalty, rows))
        spread = np.sum((wanted[rows] - wanted[learnt].mean()) ** 2)
        scores.append(1 - np.sum((wanted[rows] - predicted[rows]) ** 2) / spread)
    assert _PENALTIES[0] < min(chosen) < _PENALTIES[-1]
    assert _credit(features, wanted, groups).sum() == pytest.approx(np.mean(scores))


def test_the_interval_over_seeds_is_the_corrected_one():
    each = np.array([0.1, 0.2, 0.15, 0.3, 0.05])
    mean, low, high, p, p_absent = _over_seeds(each)
    error = np.std(each, ddof=1) * np.sqrt(1 / 5 + 1 / 4)
    assert (low, high) == pytest.approx(stats.t.interval(0.95, 4, loc=each.mean(), scale=error))
    assert mean == pytest.approx(each.mean())
    assert p == pytest.approx(2 * stats.t.sf(mean / error, 4))
    assert p_absent == pytest.approx(stats.t.cdf((mean - MARGIN) / error, 4))


def test_what_cannot_be_asked_is_refused():
    runs = planted(5, "simple", n_seeds=2)
    with refused(name="runs", expected="of 3 seeds"):
        added_to_intervals(runs, "target")
    with refused(name="runs", expected="of two labels"):
        added_to_labels(planted(5, "simple", labels=("a",)))
    still = replace(runs[0], targets={"target": np.ones(N_STEPS - 1)})
    with refused(name="targets['target']"):
        added_to_intervals([still, *runs], "target")
    with refused(name="n_permutations"):
        added_to_intervals(planted(5, "simple", n_seeds=3), "target", n_permutations=0)
