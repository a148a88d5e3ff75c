"""Commands: one module per subcommand of ``allrounder``; each parses, calls the stages and prints.

May import the stages' entry points, on use; the contract always.
"""
