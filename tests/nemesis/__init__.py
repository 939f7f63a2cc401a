"""The nemesis: the whole pipeline under load, random faults from a seed, and at the end a comparison of all places."""
