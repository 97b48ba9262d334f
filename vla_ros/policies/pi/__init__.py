"""The Pi policy: a VLM prefix and a flow-matching action expert."""
