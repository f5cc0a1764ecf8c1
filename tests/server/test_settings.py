import pytest
from pydantic import ValidationError

from server.settings import ServerSettings


def test_options_come_from_the_environment_and_lists_have_commas(monkeypatch):
    monkeypatch.setenv("LATENTGRAPH_PORT", "9000")
    monkeypatch.setenv("LATENTGRAPH_DEVICES", "cuda:0, cuda:1,")
    monkeypatch.setenv("LATENTGRAPH_TOKEN", "secret word")
    settings = ServerSettings()
    assert settings.port == 9000
    assert settings.works_on == ("cuda:0", "cuda:1")
    assert settings.token.get_secret_value() == "secret word"
    assert "secret word" not in repr(settings)
    assert ServerSettings(port=1).port == 1


def test_one_device_works_when_none_is_listed():
    assert ServerSettings(device="cpu").works_on == ("cpu",)


@pytest.mark.parametrize(("given", "made"), [("/", "/"), ("", "/"), ("studio", "/studio/"), ("/a/b", "/a/b/"), ("/a/b/", "/a/b/")])
def test_the_base_path_has_a_slash_at_both_ends(given, made):
    assert ServerSettings(base=given).base == made


@pytest.mark.parametrize("wrong", [{"token": "  "}, {"port": 70000}, {"log_level": "loud"}, {"queue_limit": 0}])
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(ValidationError):
        ServerSettings(**wrong)


@pytest.mark.parametrize(
    ("host", "alone"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("10.0.0.1", False)]
)
def test_only_the_loopback_is_the_loopback(host, alone):
    assert ServerSettings(host=host).is_loopback is alone
