"""Cells: what one system at one seed gave for one shard of users, each a folder that is named by what decides it."""
