"""From raw images to shards (`sources`, `shards`) and from shards to batches (`reader`, `transforms`, `loader`)."""
