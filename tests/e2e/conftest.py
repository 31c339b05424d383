"""Fixtures. On failure, the ends of the logs of all processes are part of the report."""
import contextlib
import shutil

import pytest

from fleet import Fleet

_live = []


@contextlib.contextmanager
def _launcher(log_dir):
    """Starts fleets (same parameters as Fleet) that end with it."""
    mine = []

    def start(**options):
        fleet = Fleet(log_dir, **options)
        mine.append(fleet)
        _live.append(fleet)
        return fleet

    try:
        yield start
    finally:
        for fleet in mine:
            fleet.close()
            _live.remove(fleet)


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    """For fleets that the tests of a file share."""
    log_dir = tmp_path_factory.mktemp("logs")
    with _launcher(log_dir) as start:
        yield start
    shutil.rmtree(log_dir, ignore_errors=True)


@pytest.fixture
def launch_for_test(tmp_path):
    """For fleets that one test breaks."""
    with _launcher(tmp_path) as start:
        yield start


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for fleet in _live:
            report.sections.append(("logs", fleet.logs()))
