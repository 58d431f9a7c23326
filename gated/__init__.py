"""gated: reads ticket barcodes at a gate, decides, drives its lanes, and keeps every scan."""

__version__ = "0.1.0"
