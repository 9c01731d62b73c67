"""A channel of another package: the memory of one process, under a name of its own."""

import fmilib
from cosmicai.fmi_channels import FmiChannel
from fmilib import backend

fmilib.register(backend.find("Memory")._replace(name="Toy", settings={"greeting": str}))
TOY = FmiChannel("toy", lambda *_: {"Toy": {"greeting": "hi"}})
