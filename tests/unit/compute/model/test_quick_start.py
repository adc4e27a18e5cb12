import importlib.util
import sys

import pytest

from mafunzo.compute.model.quick_start import hidden


def test_a_hidden_package_looks_as_if_it_were_not_installed_until_the_block_ends():
    assert "wave" not in sys.modules
    with hidden(("wave",)):
        assert importlib.util.find_spec("wave") is None
        with pytest.raises(ModuleNotFoundError):
            import wave
    import wave

    assert wave.__name__ == "wave"
    del sys.modules["wave"]


def test_what_is_imported_already_stays_visible():
    with hidden(("sys",)):
        assert importlib.util.find_spec("sys") is not None


def test_packages_come_back_after_an_error():
    with pytest.raises(ZeroDivisionError), hidden(("wave",)):
        1 / 0  # noqa: B018
    assert importlib.util.find_spec("wave") is not None
