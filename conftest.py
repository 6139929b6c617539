"""Every test run judges notebooks by the rules of tests/comparator.py."""

pytest_plugins = ["notebook_plugin", "status"]
