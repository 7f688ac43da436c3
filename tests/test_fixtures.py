"""The option ``--quick`` skips a test that reached something slow, also if the code under test caught the skip."""

from __future__ import annotations

import pytest

from reidx.testing import fixtures


@pytest.mark.parametrize("error", [None, ValueError("turned into an error")])
def test_swallowed_skip_skips_the_test(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(fixtures, "SLOW", ["the test before"])
        test = fixtures.pytest_runtest_call(None)
        next(test)
        with pytest.raises(pytest.skip.Exception, match="trains"):
            fixtures._too_slow("trains")
        with pytest.raises(pytest.skip.Exception, match="trains"):
            test.throw(error) if error else test.send(None)


def test_quick_test_ends_as_it_would() -> None:
    for error in (None, ValueError()):
        test = fixtures.pytest_runtest_call(None)
        next(test)
        with pytest.raises(type(error) if error else StopIteration):
            test.throw(error) if error else test.send(None)
