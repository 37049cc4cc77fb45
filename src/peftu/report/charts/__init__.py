"""Charts as SVG text that takes its colours from the page, so that it can be light, dark or printed."""
