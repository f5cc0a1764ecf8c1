"""The editor protocol without a socket: engine events in, messages out; requests in, answers out."""
