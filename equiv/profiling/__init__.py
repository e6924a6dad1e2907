"""``equiv profile``: what each role (bank, selection, first kernel, …) of a model costs, in both of its forms."""
