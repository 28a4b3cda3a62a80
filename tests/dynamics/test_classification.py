import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import LeaveOneGroupOut, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from support import refused

from topoflow.dynamics.cells import cell_diagrams
from topoflow.dynamics.classification import classify_summaries, grouped_plan
from topoflow.topology.point_clouds import subsample_plan
from topoflow.topology.summaries import SUMMARY_NAMES, barcode_summaries

reproducible = settings(deadline=None, derandomize=True, max_examples=60)


def rows_of(seed, shift, n_groups=6, n_rows=5, n_features=4):
    """Rows of two labels; each label has its own offset in each group, as the models of a study have."""
    rng = np.random.default_rng(seed)
    groups = np.tile(np.repeat(np.arange(n_groups), n_rows), 2)
    labels = np.repeat([0, 1], n_groups * n_rows)
    of_share = rng.normal(size=(2, n_groups, n_features))
    features = of_share[labels, groups] + 0.1 * rng.normal(size=(len(labels), n_features))
    features[:, 0] += shift * labels
    return features, labels, groups


def classify(features, labels, groups, **options):
    names = [f"x{k}" for k in range(features.shape[1])]
    return classify_summaries(features, labels, groups, **{"names": names} | options)


class TestGroupedPlan:
    @reproducible
    @given(
        n_groups=st.integers(2, 6), size=st.integers(1, 8), spare=st.integers(0, 20), seed=st.integers(0, 99)
    )
    def test_subsamples_of_different_groups_share_no_prompt(self, n_groups, size, spare, seed):
        plan, groups = grouped_plan(n_groups * size + spare, n_groups, 3, size, seed)
        assert plan.shape == (3 * n_groups, size)
        assert groups.tolist() == np.repeat(range(n_groups), 3).tolist()
        assert (np.diff(plan, axis=1) > 0).all()
        prompts = [set(plan[groups == group].ravel().tolist()) for group in range(n_groups)]
        assert sum(map(len, prompts)) == len(set.union(*prompts))
        assert max(set.union(*prompts)) < n_groups * size + spare

    def test_the_seed_decides(self):
        assert np.array_equal(grouped_plan(100, 4, 2, 20, seed=1)[0], grouped_plan(100, 4, 2, 20, seed=1)[0])
        assert not np.array_equal(
            grouped_plan(100, 4, 2, 20, seed=1)[0], grouped_plan(100, 4, 2, 20, seed=2)[0]
        )

    @pytest.mark.parametrize(
        ("n_groups", "name", "expected", "got"),
        [(6, "subsample_size", "750 prompts in 6 groups: 125", 160), (1, "n_groups", "2 or more", 1)],
    )
    def test_errors_say_what_fits(self, n_groups, name, expected, got):
        with refused(name=name, expected=expected, got=got):
            grouped_plan(n_prompts=750, n_groups=n_groups, subsample_size=160)


class TestClassifySummaries:
    def test_the_accuracy_is_that_of_a_pipeline_of_scikit_learn(self):
        features, labels, groups = rows_of(0, shift=2.0)
        found = classify(features, labels, groups, largest_correlation=0.999)
        pipeline = make_pipeline(
            StandardScaler(), PCA(n_components=0.95, svd_solver="full"), LogisticRegression(max_iter=1000)
        )
        by_fold = cross_val_score(pipeline, features, labels, groups=groups, cv=LeaveOneGroupOut())
        assert found.accuracy == pytest.approx(by_fold.mean())

    def test_labels_that_differ_are_told_on_unseen_groups(self):
        found = classify(*rows_of(1, shift=20.0, n_groups=8))
        assert found.accuracy > 0.95
        assert (found.chance, found.p, found.smallest_p, found.exact) == (0.5, 1 / 128, 1 / 128, True)

    def test_labels_that_mean_nothing_are_not_though_rows_of_a_group_are_alike(self):
        # Each label has its own offset in each group: a split inside groups finds that, another group cannot.
        features, labels, groups = rows_of(2, shift=0.0)
        inside, outside = np.arange(60) % 2 == 0, np.arange(60) % 2 == 1
        leaky = KNeighborsClassifier(1).fit(features[inside], labels[inside])
        assert leaky.score(features[outside], labels[outside]) > 0.95
        found = classify(features, labels, groups)
        assert found.accuracy < 0.75
        assert found.p > 0.05

    @pytest.mark.slow
    def test_the_level_holds_although_rows_of_a_group_are_alike(self):
        p = [classify(*rows_of(100 + k, 0.0, n_rows=3), n_folds=3).p for k in range(40)]
        assert np.mean(np.array(p) <= 0.05) <= 0.1  # attainable: 1/32
        assert np.mean(np.array(p) <= 0.5) == pytest.approx(0.5, abs=0.2)

    def test_features_are_dropped_by_the_training_rows_only(self):
        # Within either group x1 is x0 on another scale, so it is dropped and x0 tells the labels. Over all rows
        # the two hardly correlate; with both kept, x1 turns every answer of the other group round.
        _, labels, groups = rows_of(3, shift=0.0, n_groups=2)
        x0 = labels - 0.5 + 0.01 * np.random.default_rng(3).normal(size=20)
        features = np.column_stack([x0, np.where(groups == 0, 3.0, -3.0) * x0])
        assert abs(np.corrcoef(features.T)[0, 1]) < 0.1
        assert classify(features, labels, groups).accuracy == 1

    def test_columns_with_a_missing_number_are_left_out_and_named(self):
        features, labels, groups = rows_of(4, shift=3.0)
        holed = np.column_stack([features, features[:, 0]])
        holed[7, 4] = np.nan
        found = classify(holed, labels, groups)
        assert found.left_out == ("x4",)
        assert found.accuracy == classify(features, labels, groups).accuracy

    def test_constant_features_tell_nothing(self):
        _, labels, groups = rows_of(5, shift=0.0)
        found = classify(np.ones((60, 2)), labels, groups)
        assert (found.accuracy, found.p) == (0.5, 1.0)

    def test_clouds_with_a_hole_are_told_from_clouds_without_on_unseen_prompts(self):
        rng = np.random.default_rng(6)
        plan, groups = grouped_plan(120, n_groups=6, n_subsamples=3, subsample_size=18)
        angle = rng.uniform(0, 2 * np.pi, 120)
        circle = np.column_stack([np.cos(angle), np.sin(angle)]) + 0.1 * rng.normal(size=(120, 2))
        features = [
            barcode_summaries(cell_diagrams(cloud, plan)) for cloud in (circle, rng.normal(size=(120, 2)))
        ]
        found = classify_summaries(
            np.concatenate(features), np.repeat(["circle", "disc"], 18), np.tile(groups, 2)
        )
        assert found.accuracy > 0.9
        assert found.p == 1 / 32

    def test_the_plain_plan_of_a_study_cannot_be_grouped(self):
        plan = subsample_plan(750)
        assert all(set(plan[0]) & set(row) for row in plan)

    @pytest.mark.parametrize(
        ("change", "name", "got"),
        [
            ({"labels": [0] * 8}, "groups", "2 groups, 1 labels and 2 of their 2 combinations"),
            (
                {"groups": [0, 0, 1, 1, 2, 2, 3, 3]},
                "groups",
                "4 groups, 2 labels and 4 of their 8 combinations",
            ),
            ({"groups": [0, 1]}, "groups", 2),
            ({"n_folds": 3}, "n_folds", 3),
            ({"explained": 1.0}, "explained", 1.0),
            ({"features": np.full((8, 2), np.nan)}, "features", "NaN in all columns"),
            ({"features": np.full((8, 2), np.inf)}, "features", "infinity in x0"),
            ({"features": np.zeros((8, 3))}, "features", (8, 3)),
        ],
    )
    def test_errors_name_the_argument(self, change, name, got):
        good = {
            "features": np.arange(16.0).reshape(8, 2),
            "labels": [0, 0, 1, 1, 0, 0, 1, 1],
            "groups": [0, 1, 0, 1, 0, 1, 0, 1],
            "names": ["x0", "x1"],
        }
        with refused(name=name, got=got):
            classify_summaries(**good | change)

    def test_the_names_of_a_summary_are_the_default(self):
        features, labels, groups = rows_of(7, shift=3.0, n_features=41)
        assert classify_summaries(features, labels, groups, n_permutations=1).left_out == ()
        features[0, 3] = np.nan
        found = classify_summaries(features, labels, groups, n_permutations=1)
        assert found.left_out == (SUMMARY_NAMES[3],)
