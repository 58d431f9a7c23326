"""Scans up and tickets down: ``uploads``, ``downloads``, and the ``link`` to the API that both use."""
