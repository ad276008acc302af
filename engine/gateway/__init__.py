"""The program on a roadside box: what gear shows becomes records and frames, is kept in a spool,
and is sent until the engine has it. Nothing else in engine imports this package but the command.
"""
