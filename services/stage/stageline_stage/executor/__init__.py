"""The executor: a child process of the agent that imports torch, owns the data sockets and computes."""
