"""Layouts of image folders, one file each; `table.py` lists them."""
