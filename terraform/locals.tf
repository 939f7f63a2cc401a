# Names that the Kubernetes manifests and these files share. tests/deployment compares them.

locals {
  name      = "pulse"
  namespace = "pulse-pipeline"

  labels = {
    app         = "pulse-pipeline"
    environment = var.environment
    managed_by  = "terraform"
  }

  # Each workload with the secrets that it may read. Its service accounts in Kubernetes and Google are named pulse-NAME.
  workloads = {
    api      = ["pulse-kafka-username", "pulse-kafka-password", "pulse-api-keys"]
    consumer = ["pulse-mongo-uri"]
    export   = [] # its pods use the Kubernetes Secrets of the other two
  }
}
