"""How processes talk: channels, servers, errors on the wire, and the generated stubs."""
