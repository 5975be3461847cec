"""Tests of tracer.session."""
