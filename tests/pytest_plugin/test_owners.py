"""Who is charged, by which name: a test, and each kind of fixture that lives longer than one."""

import pytest

from pytest_plugin.suite import run_suite, write

pytestmark = pytest.mark.slow

CONFTEST = """
import pytest, socket
KEPT = []
@pytest.fixture(scope="session")
def of_session():
    KEPT.append(socket.socket())
@pytest.fixture(scope="session", name="renamed")
def _another():
    KEPT.append(socket.socket())
"""
TESTS = """
import pytest, socket, unittest
KEPT = []
def setup_module(): KEPT.append(socket.socket())
@pytest.fixture(scope="module", params=["a"])
def of_module(request): KEPT.append(socket.socket())
@pytest.fixture
def of_function(): KEPT.append(socket.socket())
def test_a(of_session, renamed, of_module): pass
def test_b(of_function): KEPT.append(socket.socket())
class TestC:
    @classmethod
    def setup_class(cls): KEPT.append(socket.socket())
    @pytest.fixture(scope="class")
    def of_class(self): KEPT.append(socket.socket())
    def test_c(self, of_class): pass
class TestD(unittest.TestCase):
    @classmethod
    def setUpClass(cls): KEPT.append(socket.socket())
    def test_d(self): pass
    def test_e(self): pass
class TestStores:
    @pytest.fixture(scope="class", autouse=True)
    def stores(self, request):
        request.cls.client = Client()
        yield
        request.cls.client.sock.close()
    def test_connects(self): self.client.sock = socket.socket()
    def test_uses(self): self.client.sock.getsockname()
class Client: pass
"""


@pytest.fixture(scope="module")
def leaks(tmp_path_factory):
    """All that was found in one run."""
    folder = tmp_path_factory.mktemp("owners")
    write(folder, conftest=CONFTEST, test_a=TESTS)
    return run_suite(folder).leaks


@pytest.mark.parametrize(
    ("owner", "node", "fixture"),
    [
        ("session fixture 'of_session' of conftest.py", "conftest.py::of_session", ""),
        ("session fixture 'renamed' of conftest.py", "conftest.py::renamed", ""),
        ("module fixture 'setup_module' of test_a.py", "test_a.py::setup_module", ""),
        ("module fixture 'of_module' of test_a.py", "test_a.py::of_module", ""),
        ("class fixture 'of_class' of test_a.py", "test_a.py::of_class", ""),
        ("class fixture 'setup_class' of test_a.py::TestC", "test_a.py::TestC::setup_class", ""),
        ("class fixture 'setUpClass' of test_a.py::TestD", "test_a.py::TestD::setUpClass", ""),
        ("test_a.py::test_b", "test_a.py::test_b", "of_function"),
        ("test_a.py::test_b", "test_a.py::test_b", ""),
    ],
)
def test_names(leaks, owner, node, fixture):
    """A fixture by scope, name and file, as somebody looks for it; what pytest makes of xunit's by its own name."""
    found = [(leak["owner"], leak["test"], leak["fixture"]) for leak in leaks]
    assert found.count((owner, node, fixture)) == 1


def test_nobody_else(leaks):
    """What a class fixture put into the class, and a test connected, is the fixture's, which closes it."""
    assert len(leaks) == 9


CLIENTS = """
import ctypes, os, pytest, socket
LIBC = ctypes.CDLL(None)
class Client:
    def __init__(self): self.sock = self.fd = None
    def use(self):
        if self.sock is None: self.sock = socket.socket()
    def use_in_c(self):
        if self.fd is None: self.fd = LIBC.socket(socket.AF_INET, socket.SOCK_STREAM, 0)
    def close(self):
        if self.fd is not None: os.close(self.fd)
        if self.sock is not None: self.sock.close()
@pytest.fixture(scope="module")
def client():
    made = Client()
    yield made
    made.close()
@pytest.fixture(scope="module")
def leaky(): return Client()
def test_client(client): client.use(); client.use_in_c()
def test_client_again(client): client.use(); client.use_in_c()
def test_leak_in_c(): LIBC.socket(socket.AF_INET, socket.SOCK_STREAM, 0)
def test_uses(leaky): leaky.use()
"""


def test_what_a_client_opens_in_c_is_left_to_it_as_long_as_it_lives(tmp_path):
    """The test in whose time it appeared is not blamed for what the client closes, and is for what nobody does."""
    write(tmp_path, test_a=CLIENTS)
    assert run_suite(tmp_path, "-k", "not uses").blamed() == {"test_leak_in_c"}


def test_fixture_that_ends_with_its_only_test(tmp_path):
    """What it leaves open is its own, also if it was opened in that test."""
    write(tmp_path, test_a=CLIENTS)
    outcome = run_suite(tmp_path, "-k", "uses")
    assert (outcome.blamed(), outcome.errors) == ({"leaky"}, ["test_a.py::leaky"])
