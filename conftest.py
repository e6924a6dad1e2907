"""For the tests of the pytest plugin: pytest's fixture that runs a suite inside a test."""

pytest_plugins = ["pytester"]
