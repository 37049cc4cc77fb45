"""Where a module may act."""

import pytest

from peftu.base.region import Region
from peftu.config import RegionSpec
from peftu.errors import PeftuError


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("", RegionSpec()),
        ("depth=6", RegionSpec(depth=6)),
        ("span=answer", RegionSpec(span="answer")),
        ("span=answer,depth=2", RegionSpec(depth=2, span="answer")),
        ("depth=full,span=all", RegionSpec()),
        ("depth=all", RegionSpec()),
    ],
)
def test_it_is_read_from_text(text: str, spec: RegionSpec) -> None:
    assert RegionSpec.parse(text) == spec
    assert RegionSpec.parse(str(spec)) == spec


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("dept=6", "did you mean 'depth'"),
        ("span=answers", "span"),
        ("depth=0", "depth"),
        ("depth=-1", "depth"),
        ("depth=1.5", "depth"),
        ("depth=six", "depth"),
        ("6", "key=value"),
        ("a.depth=6", "dot"),
    ],
)
def test_nonsense_is_refused_in_one_line(text: str, complaint: str) -> None:
    with pytest.raises(PeftuError, match=rf"region: .*{complaint}") as caught:
        RegionSpec.parse(text)
    assert "\n" not in str(caught.value)


def test_the_floor_counts_from_the_top_of_each_stack() -> None:
    region = Region.resolve(RegionSpec(depth=2), layers=6)
    assert [region.floor(layers) for layers in (6, 3, 2, 1)] == [4, 1, 0, 0]
    assert Region.resolve(RegionSpec(), layers=6) == Region(6, "all") == Region.resolve(RegionSpec(depth=6), layers=6)
    with pytest.raises(PeftuError, match="depth 7 is more than the base's 6 layers"):
        Region.resolve(RegionSpec(depth=7), layers=6)
