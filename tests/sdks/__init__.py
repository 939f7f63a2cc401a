"""Published SDKs, installed from their registries, and a small driver for each language.

A driver reads orders from stdin, one JSON object per line: `{"client": NAME, "url": …, "key": …, "options": {…}}`
makes a client; `{"client": NAME, "call": "track", "message": {…}}` calls it, with a message of Segment's protocol. When
stdin ends, the driver flushes, waits until each message is accepted or given up, and prints the errors that the
callbacks received: `{NAME: {NUMBER: ERROR}}`, by the `call` in the message's context.
"""
