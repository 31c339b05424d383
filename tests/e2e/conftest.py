"""Fixtures. On failure, the ends of the logs of all processes are part of the report."""
import shutil

import pytest

from fleet import Fleet

_live = []


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    """Starts fleets (same parameters as Fleet) that end with the test file."""
    log_dir = tmp_path_factory.mktemp("logs")
    mine = []

    def start(**options):
        fleet = Fleet(log_dir, **options)
        mine.append(fleet)
        _live.append(fleet)
        return fleet

    yield start
    for fleet in mine:
        fleet.close()
        _live.remove(fleet)
    shutil.rmtree(log_dir, ignore_errors=True)


@pytest.fixture
def launch_for_test(tmp_path):
    """The same, for fleets that one test breaks."""
    mine = []

    def start(**options):
        fleet = Fleet(tmp_path, **options)
        mine.append(fleet)
        _live.append(fleet)
        return fleet

    yield start
    for fleet in mine:
        fleet.close()
        _live.remove(fleet)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for fleet in _live:
            report.sections.append(("logs", fleet.logs()))
