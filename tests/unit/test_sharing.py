"""Natural order, gaps, and who gets which partitions."""

from pathlib import Path

import pytest
from cosmicai.sharing import describe_gaps, is_partition, natural_key, partition_files, share
from hypothesis import given
from hypothesis import strategies as st


def test_partitions_are_in_natural_order() -> None:
    names = ["d/10.pt", "d/2.pt", "d/1.pt", "d/b.pt", "d/100.pt", "d/a2.pt", "d/a10.pt"]
    expected = ["d/1.pt", "d/2.pt", "d/10.pt", "d/100.pt", "d/a2.pt", "d/a10.pt", "d/b.pt"]
    assert sorted(names, key=natural_key) == expected


@given(st.lists(st.text("ab01.2/"), max_size=8))
def test_any_names_can_be_ordered(names: list[str]) -> None:
    backwards = list(reversed(names))
    assert sorted(backwards, key=natural_key) == sorted(names, key=natural_key)


def test_gaps_are_one_sentence() -> None:
    keys = [f"100MB/{number}.pt" for number in (1, 2, 4, 5, 9, 10)]
    assert describe_gaps(keys) == ("4 partitions are missing in the numbering: 3.pt, 6.pt–8.pt")
    many = describe_gaps(f"{number}.pt" for number in range(0, 100, 2))
    assert many is not None
    assert many.endswith("and 39 more gaps")


def test_no_gap_is_no_report() -> None:
    assert describe_gaps(["5.pt", "6.pt", "north.pt", "7.pt"]) is None


@pytest.mark.parametrize(
    ("count", "world_size", "sizes"),
    [(10, 10, [1] * 10), (10, 4, [3, 3, 2, 2]), (2, 4, [1, 1, 0, 0]), (1, 1, [1])],
)
def test_consecutive_partitions_are_shared_as_evenly_as_possible(
    count: int, world_size: int, sizes: list[int]
) -> None:
    shares = share(list(range(count)), world_size)
    assert [len(part) for part in shares] == sizes
    assert [item for part in shares for item in part] == list(range(count))


def test_a_world_of_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, found 0"):
        share([1], 0)


def test_files_that_macos_leaves_behind_are_no_partitions(tmp_path: Path) -> None:
    names = ["10.pt", "2.pt", "._2.pt", ".hidden.pt", "2.catalogue.csv"]
    for name in names:
        (tmp_path / name).touch()
    assert [path.name for path in partition_files(tmp_path)] == ["2.pt", "10.pt"]
    keys = [f"sets/25MB/{name}" for name in names]
    assert [key for key in keys if is_partition(key)] == ["sets/25MB/10.pt", "sets/25MB/2.pt"]
    assert is_partition(".hidden/1.pt")
