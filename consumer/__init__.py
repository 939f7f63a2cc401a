"""The consumer: a record's way is source → buffer → writer → MongoDB; loop is what moves it."""
