"""Pages in the browser, on this machine. They need the extra `web`."""
