"""Methods that change the embeddings of a trained model to improve retrieval, without training."""
