"""A method's own file is short: what methods share has files of its own."""

import inspect
from pathlib import Path

import pytest

from peftu.methods.method import methods

MOST_LINES = 149


@pytest.mark.parametrize("name", methods.names())
def test_a_method_s_file_is_short(name: str) -> None:
    own = inspect.getsourcefile(methods.get(name).__mro__[1] if name == "global" else methods.get(name))
    assert own is not None
    assert len(Path(own).read_text(encoding="utf-8").splitlines()) <= MOST_LINES
