"""Four tests that pass, three of which leave a socket open. `QUOTES=quotes_fixed pytest` tests what is repaired."""

import importlib
import os
import socket
from contextlib import nullcontext

import pytest

quotes = importlib.import_module(os.environ.get("QUOTES", "quotes"))


@pytest.fixture(scope="session")
def server():
    made = quotes.QuoteServer()
    yield made
    made.stop()


def test_quotes_are_known():
    assert set(quotes.QUOTES) == {"ADA", "BOB"}


def test_ask(server):
    assert quotes.ask(server.address, "ADA") == 42.5


def test_client_asks_twice(server):
    made = quotes.QuoteClient()
    with made if hasattr(made, "close") else nullcontext(made) as client:
        assert client.ask(server.address, "ADA") == 42.5
        assert client.ask(server.address, "BOB") == 17.0


def test_subscriber_leaves(server):
    with socket.create_connection(server.address) as subscriber:
        subscriber.sendall(b"SUBSCRIBE\n")
