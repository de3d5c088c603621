"""Training, predicting, and what they leave on disk."""
