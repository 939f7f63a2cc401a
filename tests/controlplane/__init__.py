"""Tests that apply the manifests to Kubernetes' own API server and controllers. `make k8s-apply-test` runs them."""
