"""The operations of a model as a torch.fx graph, recorded from an eager run. No groups in here."""
