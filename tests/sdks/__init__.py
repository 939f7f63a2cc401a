"""The SDKs of others, as their makers publish them: installed, and driven by a small program for each language.

A driver reads orders from stdin, one JSON object a line: `{"client": NAME, "url": …, "key": …, "options": {…}}` makes a
client; `{"client": NAME, "call": "track", "message": {…}}` calls it, with a message in the form of Segment's protocol.
When stdin ends, it flushes, waits until each message was taken or given up, and prints what the error callbacks told:
`{NAME: {NUMBER: ERROR}}`, by the `call` in the message's context.
"""
