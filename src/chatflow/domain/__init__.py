"""Pure rules and use cases: no sockets, no drivers, no settings; every clock and id source is passed in."""
