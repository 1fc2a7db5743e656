"""Videos and texts: retrieval, events and their order, moments"""
