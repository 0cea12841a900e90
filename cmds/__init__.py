"""The command line: flags in, one library call, exit status. One file a subcommand."""
