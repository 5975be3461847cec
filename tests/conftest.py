"""What holds for all tests."""

from hypothesis import settings

# No test asserts wall-clock time: a busy machine is no failure.
settings.register_profile("tattle", deadline=None)
settings.load_profile("tattle")
