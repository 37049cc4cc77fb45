"""Trackers pass on how a run goes to whatever draws it: TensorBoard, MLflow. They hear counts, never users' keys."""
