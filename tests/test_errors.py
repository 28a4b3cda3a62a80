"""Errors are types with attributes; what they quote is short and cannot steer a terminal."""

import pickle

import numpy as np
import pytest

from topoflow.errors import (
    LONGEST_QUOTE,
    CommandFailed,
    DoesNotFit,
    InvalidArgument,
    InvalidFile,
    NoAnswer,
    TopoflowError,
    UnknownKey,
    Words,
    quoted,
)


def test_an_invalid_argument_says_its_name_what_was_expected_and_what_came():
    error = InvalidArgument("order", "1 or more", 0.5, "use 2 for the paper's")
    assert (error.name, error.expected, error.got) == ("order", "1 or more", 0.5)
    assert str(error) == "order must be 1 or more, got 0.5; use 2 for the paper's"
    assert isinstance(error, TopoflowError)
    assert isinstance(error, ValueError)


def test_a_number_of_numpys_is_quoted_as_a_number():
    assert quoted(np.float64(0.5)) == "0.5"


def test_an_invalid_file_says_which_what_is_wrong_and_what_to_do():
    error = InvalidFile("a/b.csv", "is cut off", "make it again with: dvc repro")
    assert (error.path, error.problem) == ("a/b.csv", "is cut off")
    assert str(error) == "a/b.csv is cut off; make it again with: dvc repro"


@pytest.mark.parametrize(
    "given",
    ["x" * 10**6, ["x" * 10**6] * 100, {f"{i}" * 1000: i for i in range(1000)}, 10**5000, b"\x00" * 10**6],
    ids=["text", "list", "mapping", "number", "bytes"],
)
def test_what_was_given_is_quoted_in_a_few_hundred_characters(given):
    assert len(str(InvalidArgument("rows", "small", given))) < LONGEST_QUOTE + 60


def test_what_was_given_cannot_steer_a_terminal():
    for error in (
        InvalidArgument("name", "plain", "\x1b[2J\x9b31m"),
        InvalidFile("\x1b]0;title\x07", "is odd"),
    ):
        assert str(error).isprintable()


@pytest.mark.parametrize(
    "error",
    [
        InvalidArgument("plan", "whole", Words("3 of them"), "make it again"),
        UnknownKey("finetune", "max_step", ["max_steps"]),
        InvalidFile("a.csv", "is cut off", "make it again"),
        NoAnswer("MLflow", "connection refused"),
        DoesNotFit(["90 GB are needed, and 20 GB are free"]),
        CommandFailed("dvc repro", "/study", "finished stages are kept"),
    ],
)
def test_an_error_of_another_process_keeps_its_type_and_attributes(error):
    found = pickle.loads(pickle.dumps(error))
    assert (type(found), str(found), vars(found)) == (type(error), str(error), vars(error))
