"""The consumer: a record goes source → buffer → writer → MongoDB; loop drives it."""
