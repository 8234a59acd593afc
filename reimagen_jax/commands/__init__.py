"""The subcommands of `reimagen`, one module each."""
