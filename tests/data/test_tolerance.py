from __future__ import annotations

import pytest

from raypose.data.tolerance import check_bad
from raypose.errors import DataError


def test_as_many_as_allowed_are_tolerated() -> None:
    bad = {"a/1.jpg": "damaged"}
    check_bad(bad, num_rows=10, where="d", allowed=0.1)
    check_bad({}, num_rows=0, where="d", allowed=0.0)
    with pytest.raises(
        DataError,
        match=r"d: 1 of 10 pictures are bad, more than data\.max_bad_fraction=0\.09 allows; "
        r"first a/1\.jpg: damaged",
    ):
        check_bad(bad, num_rows=10, where="d", allowed=0.09)
