"""Every row of ``equiv verify`` on a CUDA device."""

from __future__ import annotations

import pytest

from equiv.errors import NotEquivalent
from equiv.ladder.evidence import Verdict
from equiv.ladder.floating import DTYPES
from equiv.verify import Job, subjects

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("subject", subjects(), ids=lambda subject: subject.arguments[0])
def test_row(subject, name, equiv_seed):
    evidence = Job(subject, name, "cuda").run(equiv_seed)
    if evidence.verdict is not Verdict.EQUAL:
        raise NotEquivalent(str(evidence), evidence)
