"""The domain of CosmicAI: what the functions of the state machine do, deployed as a layer."""

__version__ = "0.1.0"
