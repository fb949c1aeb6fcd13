"""Kinds of encoder and connector: the config of each and the contracts of its graphs, a file for each kind."""
