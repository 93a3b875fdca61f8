"""Where the page may be served, and what is said of it without gradio."""

import sys

import pytest
from absl.testing import flagsaver

from score_sde import command_line
from score_sde.app import look
from score_sde.app.serving import check_address, serve
from score_sde.errors import ConfigError


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.2"])
def test_this_machine_alone_needs_no_flag(host):
    check_address(host, False)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "", "192.168.0.7", "example.org", "localhost.evil"]
)
def test_other_machines_need_a_flag(host):
    with pytest.raises(ConfigError, match="without a password: add --public if that is meant"):
        check_address(host, False)
    check_address(host, True)


def test_without_gradio_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with (
        pytest.raises(ConfigError, match=r"pip install 'score_sde\[app\]'"),
        serve(None, "127.0.0.1", 7860, False),
    ):
        pass


@pytest.mark.parametrize("flag", ["--host=0.0.0.0", "--port=80", "--public"])
def test_flags_of_the_page_are_for_its_mode(flag):
    words = ["main.py", "--mode=sample", "--config=tests/perceptron.py", "--workdir=x", flag]
    with (
        flagsaver.flagsaver(),
        pytest.raises(command_line.UsageError, match=f"{flag.split('=')[0]} is for --mode app"),
    ):
        command_line.parse_flags(words)


def test_what_a_user_types_is_text_on_the_page():
    for piece in (
        look.wrong("<img src=x onerror=alert(1)>"),
        look.told("<b>"),
        look.line("<b>", 2),
    ):
        assert "<img" not in piece
        assert "<b>" not in piece
    assert "width:100.0%" in look.line("x", 2)
