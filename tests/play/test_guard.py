import pytest

from tinyworlds.play.guard import refusal


@pytest.mark.parametrize(
    ("host", "origin", "local", "answered"),
    [
        ("127.0.0.1:8000", None, True, True),
        ("localhost:8000", "http://localhost:8000", True, True),
        ("[::1]:8000", "http://[::1]:8000", True, True),
        ("localhost:8000", "http://localhost:9000", True, False),
        ("localhost:8000", "http://127.0.0.1:8000", True, False),
        ("localhost:8000", "null", True, False),
        ("localhost:8000", "", True, False),
        ("evil.example:8000", "http://evil.example:8000", True, False),  # a name that was made to point here
        ("evil.example:8000", None, True, False),
        (None, None, True, False),
        ("localhost.evil.example", None, True, False),
        ("user@localhost", None, True, True),
        ("[bad", None, True, False),
        ("lab.example:8000", "https://lab.example:8000", False, True),
        ("lab.example:8000", "https://evil.example", False, False),
    ],
)
def test_only_our_own_pages_are_answered(host, origin, local, answered):
    assert (refusal(host, origin, local=local) == "") is answered
