//go:build tools

// The programs that tests/controlplane builds. For another version of Kubernetes, change its version in go.mod, and
// that of all its modules under `replace`: v1.37.2 of Kubernetes belongs to v0.37.2 of them; then run `go mod tidy`.
package programs

import (
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kube-controller-manager"
)
