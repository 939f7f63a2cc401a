"""Power cuts without a special kernel: records what a process writes and syncs, and builds what a disk may then hold."""
