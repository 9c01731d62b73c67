"""What never deploys: command line, local cloud, data making, training, reports."""
