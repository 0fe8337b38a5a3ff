"""Smoke plumes: the data, the networks and the training of CR sec. 4.4 (Table 2)."""
