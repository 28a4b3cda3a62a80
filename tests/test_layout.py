"""Where the files of a study stand, and its small tables."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import refused

from topoflow.errors import InvalidFile
from topoflow.storage import layout
from topoflow.storage.layout import read_columns, read_json_lines, read_table, read_velocity, write_table

reproducible = settings(deadline=None, derandomize=True, max_examples=60)
numbers = st.one_of(st.none(), st.floats(allow_nan=False), st.integers(-(2**53), 2**53))


def test_files_stand_where_dvc_looks_for_them():
    assert layout.model_file("tiny") == Path("models/tiny.json")
    assert layout.Run("tiny", "helpful", 3).folder("diagrams") == Path("diagrams/tiny/helpful/seed_3")
    assert layout.rows_file("helpful") == Path("data/helpful.jsonl")


@reproducible
@given(rows=st.lists(st.lists(numbers, min_size=3, max_size=3), max_size=6))
def test_a_table_of_numbers_comes_back_to_the_last_bit(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("table") / "table.csv"
    write_table(path, ["a", "b", "c"], rows)
    table = read_table(path, finite=False)
    assert [list(row) for row in table] == [["a", "b", "c"]] * len(rows)
    expected = [[math.nan if value is None else value for value in row] for row in rows]
    np.testing.assert_array_equal([list(row.values()) for row in table], expected)


@pytest.mark.parametrize("missing", [None, math.nan, np.nan, np.float32("nan"), np.float64("nan")])
@pytest.mark.parametrize("width", [1, 2])
def test_a_missing_value_is_an_empty_field_and_comes_back_as_nan(tmp_path, missing, width):
    path = tmp_path / "table.csv"
    names = ["a", "b"][:width]
    write_table(path, names, [[missing] * width, [1.5] * width])
    assert "nan" not in path.read_text().lower()
    empty, full = read_table(path)
    assert list(empty) == names
    assert all(math.isnan(value) for value in empty.values())
    assert full == dict.fromkeys(names, 1.5)


def test_zero_is_no_missing_value(tmp_path):
    write_table(tmp_path / "t.csv", ["a", "b"], [[0, 0.0], [np.int64(0), np.float64(-0.0)]])
    assert (tmp_path / "t.csv").read_text() == "a,b\n0,0.0\n0,-0.0\n"
    assert [*read_table(tmp_path / "t.csv")[0].values()] == [0.0, 0.0]


def test_floats_are_written_in_their_shortest_exact_form_whatever_their_type(tmp_path):
    values = [0.1, np.float64(0.1), 1 / 3, np.float64(1e-300), 5e-324, np.float32(0.1), math.inf, -math.inf]
    write_table(tmp_path / "t.csv", ["value"], [[value] for value in values])
    lines = (tmp_path / "t.csv").read_text().splitlines()[1:]
    assert lines == [
        "0.1",
        "0.1",
        "0.3333333333333333",
        "1e-300",
        "5e-324",
        "0.10000000149011612",
        "inf",
        "-inf",
    ]
    assert [row["value"] for row in read_table(tmp_path / "t.csv", finite=False)] == [
        float(value) for value in values
    ]


def test_whole_numbers_are_written_without_a_point(tmp_path):
    write_table(tmp_path / "t.csv", ["step", "layer"], [[16, np.int64(3)]])
    assert (tmp_path / "t.csv").read_text() == "step,layer\n16,3\n"


def test_equal_tables_have_equal_bytes_and_unix_line_ends(tmp_path):
    for name in ("one", "two"):
        write_table(tmp_path / name, ["model", "x"], iter([["a,b", 1.0], ['say "c"', None]]))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert (tmp_path / "one").read_bytes() == b'model,x\n"a,b",1.0\n"say ""c""",\n'


def test_a_table_makes_its_folder_and_replaces_an_older_one(tmp_path):
    path = tmp_path / "results" / "tiny" / "t.csv"
    write_table(path, ["a"], [[1], [2]])
    write_table(path, ["a"], [[3]])
    assert read_table(path) == [{"a": 3.0}]
    assert [p.name for p in path.parent.iterdir()] == ["t.csv"]


def test_columns_are_those_of_the_rows_and_only_those_asked_for_are_held(tmp_path):
    path = tmp_path / "t.csv"
    write_table(path, ["layer", "x", "y"], [[1, 0.1, None], [2, 1 / 3, math.inf]])
    table = read_columns(path, finite=False)
    assert list(table) == ["layer", "x", "y"]
    assert table["x"].tolist() == [0.1, 1 / 3]
    np.testing.assert_array_equal(table["y"], [math.nan, math.inf])
    assert list(read_columns(path, ["y", "layer"], finite=False)) == ["y", "layer"]
    with refused(InvalidFile, path=path):
        read_columns(path, ["x", "z"])
    with pytest.raises(InvalidFile) as caught:
        read_columns(path, [f"summary_{n}" for n in range(100)])
    assert len(caught.value.problem) < 200


@pytest.mark.parametrize(
    "text",
    [
        "a,b\n1\n",
        "a,b\n1,2,3\n",
        "a\nx\n",
        "a\n\x00\n",
        b"a\n\xff\n",
        "a\n1e999\n",
        "a,a\n1,2\n",
        "step\n1.5\n",
        "layer\n-1\n",
        "step,a\n,1\n",
    ],
)
def test_what_is_no_table_of_numbers_is_refused_by_name(tmp_path, text):
    path = tmp_path / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    for read in (read_columns, read_table):
        with refused(InvalidFile, path=path):
            read(path)


def test_velocities_come_back_a_layer_with_the_first_checkpoint_before_them(tmp_path):
    path = tmp_path / "velocity.csv"
    header = ["layer", "previous_step", "step", "h1_velocity", "h0_velocity"]
    rows = [
        [10, 0, 1, 0.1, 9.0],
        [10, 1, 4, 0.2, 9.0],
        [10, 4, 12, math.nan, 9.0],
        [2, 0, 1, 1 / 3, 8.0],
        [2, 1, 4, 0.5, 8.0],
        [2, 4, 12, 0.6, 8.0],
    ]
    write_table(path, header, rows)
    steps, velocities = read_velocity(path, "h1_velocity")
    assert steps.tolist() == [0, 1, 4, 12]
    assert steps.dtype == np.int64
    assert list(velocities) == [2, 10]  # by number, not by text and not as written
    assert velocities[2].tolist() == [1 / 3, 0.5, 0.6]
    np.testing.assert_array_equal(velocities[10], [0.1, 0.2, math.nan])
    assert read_velocity(path, "h0_velocity")[1][2].tolist() == [8.0, 8.0, 8.0]


def test_a_run_need_not_start_at_step_zero(tmp_path):
    write_table(tmp_path / "v.csv", ["layer", "previous_step", "step", "x"], [[0, 100, 110, 1.0]])
    steps, velocities = read_velocity(tmp_path / "v.csv", "x")
    assert steps.tolist() == [100, 110]
    assert velocities[0].tolist() == [1.0]


@reproducible
@given(rows=st.lists(st.dictionaries(st.text(), st.text()), max_size=4))
def test_json_lines_come_back_whatever_their_text_holds(tmp_path_factory, rows):
    from topoflow.training.objectives import jsonl_bytes

    path = tmp_path_factory.mktemp("lines") / "rows.jsonl"
    path.write_bytes(jsonl_bytes(rows))
    assert read_json_lines(path) == rows


def test_json_lines_are_not_split_at_line_ends_that_json_does_not_escape(tmp_path):
    from topoflow.training.objectives import jsonl_bytes

    rows = [{"text": "a\u2028b\u2029c\u0085d\x0be\x0cf\r\ng"}, {"text": "next"}]
    (tmp_path / "rows.jsonl").write_bytes(jsonl_bytes(rows))
    assert read_json_lines(tmp_path / "rows.jsonl") == rows


def test_rows_that_were_not_prepared_are_asked_for(tmp_path):
    path = tmp_path / "helpful.jsonl"
    with refused(InvalidFile, path=path, remedy="dvc repro"):
        read_json_lines(path)
