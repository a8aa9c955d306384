"""The endpoint: a CPU ingress before autoscaling classifier replicas."""
