"""MyLLM: language models on your own machine, for many users at once, with sessions that last."""

__version__ = "0.1.0"
