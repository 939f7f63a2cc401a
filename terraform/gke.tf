# The cluster: regional, with private nodes and one pool of small nodes. kubectl reaches it by its DNS name and IAM.

resource "google_container_cluster" "pulse" {
  #checkov:skip=CKV_GCP_12:Dataplane V2 (datapath_provider) enforces NetworkPolicies; this rule requires Calico.
  #checkov:skip=CKV_GCP_20:The control plane has no IP endpoint, so there are no networks to authorise.
  #checkov:skip=CKV_GCP_25:As above; the nodes are private by private_cluster_config.
  #checkov:skip=CKV_GCP_65:Access is by IAM. Google Groups for RBAC needs a Workspace domain, which a project may not have.
  #checkov:skip=CKV_GCP_66:Binary Authorization requires signed images; the workflow does not sign them.
  #checkov:skip=CKV_GCP_69:The metadata server is set on the node pool; the default pool is removed.
  name     = local.name
  location = var.region # three zones: the control plane survives the failure of one, and nodes can be in each

  network         = google_compute_network.pulse.id
  subnetwork      = google_compute_subnetwork.nodes.id
  networking_mode = "VPC_NATIVE"

  ip_allocation_policy {
    cluster_secondary_range_name  = "pods"
    services_secondary_range_name = "services"
  }

  # Enforces NetworkPolicies (the classic datapath ignores them without Calico), and does not use iptables.
  datapath_provider           = "ADVANCED_DATAPATH"
  enable_intranode_visibility = true

  private_cluster_config {
    enable_private_nodes = true
  }

  # kubectl uses the DNS name with IAM, so there is no IP address to scan and no list of networks to maintain.
  control_plane_endpoints_config {
    dns_endpoint_config {
      allow_external_traffic = true
    }
    ip_endpoints_config {
      enabled = false
    }
  }

  master_auth {
    client_certificate_config {
      issue_client_certificate = false # cannot be revoked
    }
  }

  enable_legacy_abac    = false
  enable_shielded_nodes = true

  workload_identity_config {
    workload_pool = "${var.project_id}.svc.id.goog"
  }

  # Copies Secret Manager's secrets into Kubernetes Secrets, and new versions within five minutes.
  secret_sync_config {
    enabled = true
    rotation_config {
      enabled           = true
      rotation_interval = "300s"
    }
  }

  # Upgrades come with a delay, in the night from Saturday to Sunday and from Sunday to Monday (UTC).
  release_channel {
    channel = "REGULAR"
  }

  maintenance_policy {
    recurring_window {
      start_time = "2026-01-03T22:00:00Z"
      end_time   = "2026-01-04T04:00:00Z"
      recurrence = "FREQ=WEEKLY;BYDAY=SA,SU"
    }
  }

  logging_config {
    enable_components = ["SYSTEM_COMPONENTS", "WORKLOADS"]
  }

  # Managed Prometheus scrapes the targets of the PodMonitorings; the alert policies query it.
  monitoring_config {
    enable_components = ["SYSTEM_COMPONENTS"]
    managed_prometheus {
      enabled = true
    }
  }

  addons_config {
    horizontal_pod_autoscaling {
      disabled = false
    }
    http_load_balancing {
      disabled = false
    }
    gce_persistent_disk_csi_driver_config {
      enabled = true # the journals' disks
    }
    dns_cache_config {
      enabled = false # three small workloads need few look-ups, and the NetworkPolicy for DNS stays simple
    }
  }

  # For the API's Gateway, with TLS: kubernetes/overlays/gke/gateway.yaml.
  gateway_api_config {
    channel = "CHANNEL_STANDARD"
  }

  security_posture_config {
    mode               = "BASIC"
    vulnerability_mode = "VULNERABILITY_DISABLED" # Artifact Registry scans the images
  }

  cost_management_config {
    enabled = true # splits the bill by namespace
  }

  # A cluster cannot be created without a pool. This one exists for minutes, but must not run as the project's default
  # account.
  remove_default_node_pool = true
  initial_node_count       = 1
  node_config {
    service_account = google_service_account.nodes.email
    shielded_instance_config {
      enable_secure_boot          = true
      enable_integrity_monitoring = true
    }
  }

  resource_labels     = local.labels
  deletion_protection = var.deletion_protection

  lifecycle {
    ignore_changes = [node_config, initial_node_count] # of the deleted pool
  }

  depends_on = [google_project_service.needed, google_project_iam_member.nodes]
}

resource "google_container_node_pool" "pulse" {
  name               = local.name
  cluster            = google_container_cluster.pulse.id
  location           = var.region
  initial_node_count = 1 # per zone: three nodes at first; the autoscaler removes idle ones

  # For the whole region, not per zone. BALANCED, so that there are nodes for the API's pods in different zones.
  autoscaling {
    total_min_node_count = var.node_count.min
    total_max_node_count = var.node_count.max
    location_policy      = "BALANCED"
  }

  management {
    auto_repair  = true
    auto_upgrade = true
  }

  # A new node starts before an old one stops, so that an upgrade can respect the PodDisruptionBudgets.
  upgrade_settings {
    strategy        = "SURGE"
    max_surge       = 1
    max_unavailable = 0
  }

  node_config {
    machine_type    = var.machine_type
    image_type      = "COS_CONTAINERD"
    disk_type       = "pd-balanced"
    disk_size_gb    = 50 # images and logs; the journals have disks of their own
    spot            = false
    service_account = google_service_account.nodes.email
    oauth_scopes    = ["https://www.googleapis.com/auth/cloud-platform"] # IAM decides, not scopes
    labels          = local.labels
    resource_labels = local.labels

    metadata = {
      disable-legacy-endpoints = "true"
    }

    # Pods use their own identity, never the node's.
    workload_metadata_config {
      mode = "GKE_METADATA"
    }

    shielded_instance_config {
      enable_secure_boot          = true
      enable_integrity_monitoring = true
    }

    kubelet_config {
      cpu_manager_policy                     = "none"
      insecure_kubelet_readonly_port_enabled = "FALSE"
    }
  }

  lifecycle {
    ignore_changes = [initial_node_count] # a change would replace the pool
  }
}
