"""The torch model: adapter, encoder and LLM put together, and its checkpoint directory. Training and export only."""
