"""What is read from a worker's attributes, which a worker may have written itself."""

import pytest

from worker_sidecar.launch.cgroupfs import marks


@pytest.mark.parametrize("text", ["inf", "-inf", "nan", "1e999", "", "now"])
def test_a_start_that_is_no_time_is_unknown(text: str) -> None:
    assert marks.started({"started": text}) is None
    assert marks.started({"started": "1767225600.500"}) == 1767225600.5
