"""What a run looks like: image grids, film strips, tables, plots, and one page with all of it.

Each module is imported by its own name, so that a table does not wait for matplotlib.
"""
