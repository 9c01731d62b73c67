"""Engines: what turns a model bundle into predictions. All answer to one contract."""
