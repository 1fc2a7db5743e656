"""CPU seconds of each test, its child processes included: unlike the clock they hardly depend on what else the machine does."""

import os
from collections import Counter
from collections.abc import Iterator

import pytest


def _cpu() -> float:
    t = os.times()
    return t.user + t.system + t.children_user + t.children_system


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--costs", type=int, default=0, metavar="N", help="show the N tests that took most CPU seconds, and sums"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    item.stash[START] = _cpu()
    return (yield)


START = pytest.StashKey[float]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[pytest.TestReport]:
    report = yield
    if report.when == "teardown":
        report.user_properties = [*report.user_properties, ("cpu", _cpu() - item.stash[START])]
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The dearest tests, the sum of each file, and of each system's generic tests."""
    number = config.getoption("--costs")
    reports = [r for r in terminalreporter.stats.get("", []) if r.when == "teardown"]
    spent = {r.nodeid: dict(r.user_properties).get("cpu", 0.0) for r in reports}
    if not number or not spent:
        return
    files: Counter[str] = Counter()
    systems: Counter[str] = Counter()
    for name, seconds in spent.items():
        files[name.partition("::")[0]] += seconds
        if name.startswith("tests/generic/") and name.endswith("]"):
            systems[name.rpartition("[")[2][:-1]] += seconds
    for title, sums in (("tests", Counter(spent)), ("files", files), ("systems, generic tests", systems)):
        if sums:
            terminalreporter.section(f"CPU seconds: {sum(sums.values()):.0f} in {len(sums)} {title}")
            for name, seconds in sums.most_common(number):
                terminalreporter.write_line(f"{seconds:7.1f}  {name}")
