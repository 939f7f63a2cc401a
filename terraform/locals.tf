# Names that the Kubernetes manifests and these files share. tests/deployment holds both to them.

locals {
  name      = "pulse"
  namespace = "pulse-pipeline"

  labels = {
    app         = "pulse-pipeline"
    environment = var.environment
    managed_by  = "terraform"
  }

  # A workload: its Kubernetes service account and its Google one are both called pulse-NAME. It may read these secrets.
  workloads = {
    api      = ["pulse-kafka-username", "pulse-kafka-password", "pulse-api-keys"]
    consumer = ["pulse-mongo-uri"]
    export   = [] # its pods have the Kubernetes Secrets of the other two
  }
}
