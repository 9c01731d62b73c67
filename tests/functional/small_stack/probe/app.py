"""Does what the event says, so that a test can see how the local cloud takes it."""

import json
import os
import signal
import time
from pathlib import Path

CALLS = 0


def handler(event, context):
    global CALLS
    CALLS += 1
    print(json.dumps({"rank": event.get("rank"), "message": "at work"}))
    mode = event.get("mode")
    if mode == "sleep":
        time.sleep(event["seconds"])
    elif mode == "raise":
        raise KeyError(event["error"])
    elif mode == "allocate":
        block = bytearray(event["megabytes"] << 20)
        time.sleep(event.get("seconds", 0))
        del block
    elif mode == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif mode == "die once" and not Path(event["mark"]).exists():
        Path(event["mark"]).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    elif mode == "environment":
        return dict(os.environ)
    return {"calls": CALLS, "process": os.getpid(), "rank": event.get("rank")}
