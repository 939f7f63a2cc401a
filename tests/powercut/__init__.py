"""Power cuts without a special kernel: records the writes and syncs of a process, and builds possible disks."""
