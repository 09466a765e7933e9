"""Vary one thing over seeds at equal budget: the grid, who runs it, the table and the plot."""
