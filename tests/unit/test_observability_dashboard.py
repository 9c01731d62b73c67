"""The dashboard shows what the code emits: a widget of a metric nobody writes stays empty."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = (ROOT / "packages/cosmicai/cosmicai/observability.py").read_text()
DASHBOARD = (ROOT / "infrastructure/operations.yaml").read_text()


def test_every_metric_on_the_dashboard_is_emitted() -> None:
    shown = set(re.findall(r'\["\$\{MetricsNamespace\}", "(\w+)", "service"', DASHBOARD))
    shown |= {"Unpredicted"} if '"Unpredicted"' in DASHBOARD else set()
    assert shown
    assert [name for name in sorted(shown) if f'"{name}"' not in CODE] == []


def test_the_steps_that_emit_flush_their_metrics() -> None:
    for step in ("model_inference", "summarize"):
        assert f'"service", "{step}"' in DASHBOARD
        assert "@metrics.log_metrics" in (ROOT / f"functions/{step}/app.py").read_text()
