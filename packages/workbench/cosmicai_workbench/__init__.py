"""What never deploys: command line, local cloud, data making, training, reports."""

__version__ = "0.1.0"
