"""The command line: each verb in a file of its own, thin: parse, call, print."""
