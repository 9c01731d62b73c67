"""The domain of CosmicAI: what the functions of the state machine do, deployed as a layer."""

from cosmicai.built_for import check_processor

__version__ = "0.1.0"

check_processor()
