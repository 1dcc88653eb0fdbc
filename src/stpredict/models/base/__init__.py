"""What networks share: batches, the protocol, the registry, and a base per kind of example."""
