"""Power cuts without a special kernel: records a process's writes and syncs, and builds what a disk may then hold."""
