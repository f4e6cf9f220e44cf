import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinyworlds.data.hdf5 import Rows

ROWS = np.random.default_rng(0).integers(0, 2**16, (50, 4, 6), np.uint16)
LAYOUTS: list[tuple[dict[str, Any], bool]] = [
    ({}, True),
    ({"chunks": (1, 4, 6)}, True),
    ({"chunks": (7, 4, 6)}, True),
    ({"chunks": (64, 4, 6), "maxshape": (None, 4, 6)}, True),
    ({"chunks": (7, 4, 3)}, False),
    ({"chunks": (7, 4, 6), "compression": "lzf"}, False),
    ({"chunks": (7, 4, 6), "compression": "gzip", "shuffle": True}, False),
    ({"chunks": (7, 4, 6), "fletcher32": True}, False),
]


def write(path: Path, rows: np.ndarray, **layout: Any) -> Rows:
    with h5py.File(path, "w") as file:
        file.create_dataset("before", data=np.arange(7))
        file.create_dataset("rows", data=rows, **layout)
    return Rows(path, "rows")


@pytest.mark.parametrize(("layout", "mapped"), LAYOUTS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(starts=st.lists(st.integers(0, 40), max_size=9), length=st.integers(1, 10))
def test_windows_are_what_was_written_however_it_was(
    tmp_path: Path, layout: dict[str, Any], mapped: bool, starts: list[int], length: int
) -> None:
    rows = write(tmp_path / "rows.h5", ROWS, **layout)
    windows = rows.windows(np.array(starts, np.int64), length)
    assert windows.dtype == ROWS.dtype
    assert windows.shape == (len(starts), length, 4, 6)
    for start, window in zip(starts, windows, strict=True):
        np.testing.assert_array_equal(window, ROWS[start : start + length])
    assert rows.mapped is mapped
    rows.close()


def test_rows_may_be_single_numbers(tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.h5", ROWS[:, 0, 0])
    np.testing.assert_array_equal(rows.windows(np.array([3, 1]), 2), [ROWS[3:5, 0, 0], ROWS[1:3, 0, 0]])


def test_rows_that_were_never_written_are_read_as_such(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        rows = file.create_dataset("rows", (50, 4, 6), np.uint16, chunks=(5, 4, 6), fillvalue=9)
        rows[10:15] = ROWS[10:15]
    window = Rows(tmp_path / "rows.h5", "rows").windows(np.array([8]), 4)[0]
    np.testing.assert_array_equal(window[2:], ROWS[10:12])
    assert (window[:2] == 9).all()


def test_a_file_that_begins_with_something_else_is_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "rows.h5", "w", userblock_size=512) as file:
        file["rows"] = ROWS
    np.testing.assert_array_equal(Rows(tmp_path / "rows.h5", "rows").windows(np.array([5]), 3)[0], ROWS[5:8])


def test_open_rows_can_be_pickled(tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.h5", ROWS)
    expected = rows.windows(np.array([5]), 3)
    pickled = pickle.dumps(rows)
    assert len(pickled) < ROWS.nbytes
    np.testing.assert_array_equal(pickle.loads(pickled).windows(np.array([5]), 3), expected)
