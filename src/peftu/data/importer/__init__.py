"""Anybody's table as a task, one question a module: encoding, format, roles of columns, labels, times, rows."""
