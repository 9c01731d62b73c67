"""``python -m fmilib.rendezvous``: run the rendezvous server."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import socket
import sys

from fmilib.rendezvous.server import MAX_JOINING, Server, serve

# A server for ranks anywhere.
EVERYWHERE = "0.0.0.0"  # noqa: S104  # nosec B104


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and serve, or ask a server for its health."""
    parser = argparse.ArgumentParser(
        prog="python -m fmilib.rendezvous",
        description="Rendezvous server of fmilib: where ranks find each other.",
        epilog="Example: FMI_TOKEN=secret python -m fmilib.rendezvous --port 10000",
    )
    parser.add_argument("--host", default=EVERYWHERE, help="address to listen on")
    parser.add_argument("--port", type=int, default=10000, help="0 takes any free one")
    parser.add_argument("--port-file", help="write the port here once listening")
    parser.add_argument("--max-clients", type=int, default=20_000, help="connections at once")
    parser.add_argument(
        "--max-joining",
        type=int,
        default=MAX_JOINING,
        help="connections of one address that have not joined yet; beyond, the slowest is dropped",
    )
    parser.add_argument("--session-seconds", type=float, default=900.0)
    parser.add_argument(
        "--no-auth", action="store_true", help="accept everyone (for one machine or a private net)"
    )
    parser.add_argument(
        "--health", action="store_true", help="ask the server at host:port, print, exit 0 or 1"
    )
    options = parser.parse_args(arguments)
    if options.health:
        return check_health(options.host, options.port)
    token = os.environ.get("FMI_TOKEN")
    if not token and not options.no_auth:
        parser.error("set FMI_TOKEN to the shared token, or pass --no-auth")
    # A connection is an open file; the usual soft limit is 1,024.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = options.max_clients + 64
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, limit), hard))
    server = Server(
        None if options.no_auth else token,
        max_clients=options.max_clients,
        max_joining=options.max_joining,
        session_seconds=options.session_seconds,
    )
    asyncio.run(serve(server, options.host, options.port, options.port_file))
    return 0


def check_health(host: str, port: int) -> int:
    """Print a server's health; return 0 if it is well."""
    host = "127.0.0.1" if host == EVERYWHERE else host
    try:
        with socket.create_connection((host, port), timeout=3) as connection:
            connection.sendall(b'{"type":"health"}\n')
            answer = json.loads(connection.makefile("rb").readline())
    except (OSError, ValueError) as error:
        sys.stderr.write(f"no answer from {host}:{port}: {error}\n")
        return 1
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0 if answer.get("status") == "ok" else 1


if __name__ == "__main__":
    sys.exit(main())
