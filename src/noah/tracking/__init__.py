"""Files to MLflow. The files are the truth: MLflow is a view of them that can be thrown away and published again."""

from noah.tracking.publish import publish
from noah.tracking.store import init_local_store, serve, tracking_uri

__all__ = ["init_local_store", "publish", "serve", "tracking_uri"]
