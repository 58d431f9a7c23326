"""Shows the table, which pytest would keep to itself."""

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for report in terminalreporter.getreports("passed"):
        terminalreporter.write(report.capstdout)
