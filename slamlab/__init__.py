"""SLAMLab."""
