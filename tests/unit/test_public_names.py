import mafunzo


def test_every_public_name_is_there():
    for name in mafunzo.__all__:
        assert getattr(mafunzo, name).__name__ == name
