"""Hypothesis profiles ``ci``, ``dev`` and ``nightly``, registered and loaded only when one is asked for.

Every field of ``hypothesis.settings`` is stated, so a profile means the same whatever the defaults of the installed
version, its own ``ci`` profile (loaded by itself where the environment looks like CI), or a project's conftest say.
They are registered as ``equiv-ci`` and so on: Hypothesis' own ``ci`` stays what it was.

Choices that hold for all three:

- ``derandomize=False``: a derandomised run draws the same examples for ever, so a program can come to be right on
  exactly those. Examples must be drawn *after* the programs under test are fixed. Reproducing a failure does not need
  it: the report prints the shrunken example and the blob for ``@reproduce_failure`` (``print_blob=True``).
- ``deadline=None`` and no ``too_slow`` health check: both judge the machine, and the first call of a kernel is slow.
"""

from __future__ import annotations

from typing import Any

from equiv.errors import check_choice

# Examples per test, and whether failing examples are kept in .hypothesis/ and tried first next time. A CI machine
# starts fresh, so a database would only hide there that nothing is replayed.
_PROFILES = {"ci": (50, False), "dev": (25, True), "nightly": (2000, True)}
NAMES = tuple(_PROFILES)


def fields(name: str) -> dict[str, Any]:
    """Every field of ``hypothesis.settings`` for the profile ``name``.

    Example:
        >>> fields("ci")["max_examples"], fields("ci")["deadline"]
        (50, None)
    """
    from hypothesis import HealthCheck, Phase, Verbosity
    from hypothesis.database import DirectoryBasedExampleDatabase

    max_examples, keep = _PROFILES[check_choice("name", name, NAMES, "equiv.testing.profiles.fields")]
    return {
        "max_examples": max_examples,
        "derandomize": False,
        "database": DirectoryBasedExampleDatabase(".hypothesis/examples") if keep else None,
        "verbosity": Verbosity.normal,
        "phases": (Phase.explicit, Phase.reuse, Phase.generate, Phase.target, Phase.shrink, Phase.explain),
        "stateful_step_count": 50,
        "report_multiple_bugs": True,
        "suppress_health_check": (HealthCheck.too_slow,),
        "deadline": None,
        "print_blob": True,
        "backend": "hypothesis",
    }


def load(name: str) -> str:
    """Make ``name`` the current profile; return the name of the one it replaces, for ``settings.load_profile``."""
    from hypothesis import settings

    settings.register_profile(f"equiv-{name}", **fields(name))
    previous = settings.get_current_profile_name()
    settings.load_profile(f"equiv-{name}")
    return previous
