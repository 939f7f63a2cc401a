"""The nemesis: the whole pipeline under load, random faults from a seed, and a comparison of all places at the end."""
