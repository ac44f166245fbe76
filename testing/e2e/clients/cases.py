"""What the Python scripts share: the list of cases, the command line, deadlines.

A case is a function that takes the Broker and raises on failure. Its docstring begins with the
ids of the behaviours that it proves. A script prints `ok NAME` for each case that held.
"""

import argparse
import asyncio
import inspect
import ssl
import sys
import traceback
import uuid

DEADLINE = 20.0
CASES = []


class Broker:
    """Where the broker listens, and names that no other run uses."""

    def __init__(self, arguments):
        self.host = arguments.host
        self.port = arguments.port
        self.transport = arguments.transport
        self.path = arguments.path
        self.authority = arguments.ca
        self.run = uuid.uuid4().hex[:8]

    @property
    def is_websocket(self):
        return self.transport in ("ws", "wss")

    @property
    def tls(self):
        """A context that trusts the given authority only, or None without TLS."""
        if self.transport not in ("tls", "wss"):
            return None
        return ssl.create_default_context(cafile=self.authority)

    def topic(self, name):
        return f"e2e/{self.run}/{name}"

    def client_id(self, name):
        return f"e2e-{self.run}-{name}"


def case(function):
    """Lists a case, in the order of the file."""
    CASES.append(function)
    return function


def check(condition, message):
    if not condition:
        raise AssertionError(message)


def equal(actual, expected, what):
    check(actual == expected, f"{what}: expected {expected!r}, got {actual!r}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", required=True, type=int)
    parser.add_argument("--transport", required=True, choices=["tcp", "tls", "ws", "wss"])
    parser.add_argument("--path", default="/mqtt")
    parser.add_argument("--ca", help="certificate of the authority, for tls and wss")
    parser.add_argument("--only", action="append", help="run only the case of this name")
    arguments = parser.parse_args()
    broker = Broker(arguments)
    unknown = set(arguments.only or []) - {function.__name__ for function in CASES}
    if unknown:
        sys.exit(f"no such case: {', '.join(sorted(unknown))}")
    failed = 0
    for function in CASES:
        if arguments.only and function.__name__ not in arguments.only:
            continue
        try:
            if inspect.iscoroutinefunction(function):
                asyncio.run(asyncio.wait_for(function(broker), 3 * DEADLINE))
            else:
                function(broker)
            print(f"ok {function.__name__}", flush=True)
        except Exception:
            failed += 1
            print(f"FAILED {function.__name__}\n{traceback.format_exc()}", flush=True)
    sys.exit(1 if failed else 0)
