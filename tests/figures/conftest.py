"""What holds for every test of pictures."""

import gc
import warnings
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Iterator[None]:
    gc.collect()  # what another test left warns here, and not in this one
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
