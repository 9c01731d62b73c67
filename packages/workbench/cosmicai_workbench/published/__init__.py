"""The published figures, as data: what others measured, kept apart from what we measure."""

from cosmicai_workbench.published.load import PublishedRanks, executions, published, rank_times

__all__ = ["PublishedRanks", "executions", "published", "rank_times"]
