"""The reports' cost tables, from their own inputs through our price list: docs/cost.md says so."""

import re
from pathlib import Path

import pytest
from cosmicai.cost import FunctionUsage, Usage, cost
from pydantic import ValidationError

DOCUMENT = Path(__file__).parents[2] / "docs" / "cost.md"
CONFIGURED_MB = 10_240
"""Memory size of their function, as its REPORT lines show; what Lambda bills for."""

# Report, partition MB, requests, seconds in all, memory GB used, dollars stated.
REPORT_0 = [
    (25, 517, 517 * 6.55, 2.8, 0.16),
    (50, 259, 259 * 11.8, 4.0, 0.20),
    (75, 173, 173 * 17.6, 5.9, 0.30),
    (100, 130, 130 * 25.0, 7.0, 0.38),
]
REPORT_1 = [
    (25, 520, 520 * 6.2, 2.5, 0.15),
    (50, 260, 260 * 11.5, 3.8, 0.19),
    (75, 174, 174 * 17.0, 5.7, 0.29),
    (100, 130, 130 * 24.3, 7.0, 0.36),
]
REPORT_2 = [
    (25, 52, 52 * 6.2, 2.5, 0.15),
    (50, 52, 52 * 11.5, 3.8, 0.19),
    (75, 50, 50 * 17.0, 5.7, 0.29),
    (100, 50, 50 * 24.3, 7.0, 0.36),
]
REPORT_3 = [
    (25, 491, 3633.4, 2.8, 83.27),
    (50, 245, 2646.0, 4.0, 43.2266),
    (75, 163, 3227.4, 5.9, 51.7402),
    (100, 122, 4074.8, 7.0, 58.0096),
]


def dollars(requests: int, seconds: float, memory_gb: float) -> float:
    usage = FunctionUsage(
        name="model_inference",
        requests=requests,
        billed_seconds=seconds,
        memory_mb=round(memory_gb * 1024),
    )
    return cost(Usage(architecture="x86_64", functions=[usage])).total


@pytest.mark.parametrize(
    ("table", "tolerance"), [(REPORT_0, 0.03), (REPORT_1, 0.12)], ids=["report 0", "report 1"]
)
def test_two_tables_follow_from_their_inputs(table, tolerance):
    for _, requests, seconds, memory, stated in table:
        assert dollars(requests, seconds, memory) == pytest.approx(stated, rel=tolerance)


def test_one_table_multiplied_by_the_invocations_twice():
    for _, requests, seconds, memory, stated in REPORT_3:
        right = dollars(requests, seconds, memory)
        assert stated / right > 100
        assert right * requests == pytest.approx(stated, rel=0.002)


def test_one_table_holds_the_costs_of_ten_times_the_data():
    for (*_, stated), (*_, elsewhere) in zip(REPORT_2, REPORT_1, strict=True):
        assert stated == elsewhere
    ratios = [stated / dollars(n, s, m) for _, n, s, m, stated in REPORT_2]
    assert min(ratios) > 2.4
    assert max(ratios) > 11


def test_one_table_has_more_memory_than_lambda_offers():
    with pytest.raises(ValidationError, match="10240"):
        dollars(1600, 1600 * 7.28, 17.4)


def test_all_tables_bill_used_memory_where_lambda_bills_the_configured_size():
    for _, requests, seconds, memory, stated in REPORT_0:
        billed = dollars(requests, seconds, CONFIGURED_MB / 1024)
        assert billed / stated == pytest.approx(10 / memory, rel=0.05)


def test_the_document_says_the_same():
    rows = [
        line.strip("|").split("|")
        for line in DOCUMENT.read_text().splitlines()
        if re.match(r"\| \d \|", line)
    ]
    tables = [REPORT_0, REPORT_1, REPORT_2, REPORT_3]
    expected = [(report, *row) for report, table in enumerate(tables) for row in table]
    assert len(rows) == len(expected)
    for texts, (report, size, requests, seconds, memory, stated) in zip(
        rows, expected, strict=True
    ):
        found = [float(text.replace(",", "")) for text in texts]
        assert found == [
            report,
            size,
            requests,
            pytest.approx(seconds, abs=0.06),
            memory,
            pytest.approx(stated, abs=0.005),
            pytest.approx(dollars(requests, seconds, memory), abs=0.0006),
            pytest.approx(dollars(requests, seconds, CONFIGURED_MB / 1024), abs=0.006),
        ]
