# An installation with only the three required variables. Plans only, without an account.

mock_provider "google" {}

variables {
  project_id  = "pulse-test-1"
  alert_email = "oncall@example.com"
  api_host    = "events.example.com"
}

run "cluster" {
  command = plan

  assert {
    condition     = google_container_cluster.pulse.location == "europe-west1"
    error_message = "The cluster must be regional, so that its control plane survives the failure of a zone."
  }

  assert {
    condition     = google_container_cluster.pulse.private_cluster_config[0].enable_private_nodes && !google_container_cluster.pulse.control_plane_endpoints_config[0].ip_endpoints_config[0].enabled
    error_message = "Nodes and control plane must not have a public address."
  }

  assert {
    condition     = google_container_cluster.pulse.workload_identity_config[0].workload_pool == "pulse-test-1.svc.id.goog" && google_container_node_pool.pulse.node_config[0].workload_metadata_config[0].mode == "GKE_METADATA"
    error_message = "Workload Identity requires both the cluster's pool and nodes that hide their own identity."
  }

  assert {
    condition     = google_container_cluster.pulse.datapath_provider == "ADVANCED_DATAPATH"
    error_message = "Dataplane V2 must be on: without it, NetworkPolicies have no effect."
  }

  assert {
    condition     = google_container_cluster.pulse.deletion_protection && google_bigquery_table.events.deletion_protection
    error_message = "By default, a terraform destroy must not delete the cluster and the events."
  }
}

run "nodes" {
  command = plan

  assert {
    condition     = google_container_node_pool.pulse.node_config[0].machine_type == "e2-standard-2"
    error_message = "The default machine type must be e2-standard-2."
  }

  assert {
    condition     = google_container_node_pool.pulse.autoscaling[0].total_min_node_count == 1 && google_container_node_pool.pulse.autoscaling[0].total_max_node_count == 3
    error_message = "The pool must have 1 to 3 nodes in the region, not in each of its zones."
  }

  assert {
    condition     = google_container_node_pool.pulse.node_config[0].shielded_instance_config[0].enable_secure_boot && google_container_node_pool.pulse.upgrade_settings[0].max_unavailable == 0
    error_message = "Nodes must be shielded, and each must start before the one that it replaces stops."
  }
}

run "network" {
  command = plan

  assert {
    condition     = google_compute_subnetwork.nodes.secondary_ip_range[*].range_name == tolist(["pods", "services"])
    error_message = "The subnet must have the cluster's two secondary ranges, for pods and services."
  }

  assert {
    condition     = google_compute_router_nat.nat.nat_ip_allocate_option == "MANUAL_ONLY"
    error_message = "The egress address must be reserved, since Kafka and MongoDB allow only this address."
  }

  assert {
    condition     = google_compute_firewall.deny.priority > google_compute_firewall.internal.priority && tolist(google_compute_firewall.deny.source_ranges) == tolist(["0.0.0.0/0"])
    error_message = "Ingress must be denied by default."
  }

}

run "tls" {
  command = plan

  assert {
    condition     = toset([google_compute_global_address.api.name, google_certificate_manager_certificate_map.api.name, google_compute_ssl_policy.api.name]) == toset(["pulse-api"])
    error_message = "Address, certificate map and TLS policy must have the name that the Gateway of the gke overlay uses."
  }

  assert {
    condition     = google_certificate_manager_certificate.api.managed[0].domains == tolist(["events.example.com"]) && google_certificate_manager_dns_authorization.api.domain == "events.example.com" && google_certificate_manager_certificate_map_entry.api.hostname == "events.example.com"
    error_message = "Certificate, authorization and load balancer must have the same host name."
  }

  assert {
    condition     = google_compute_ssl_policy.api.min_tls_version == "TLS_1_2"
    error_message = "The TLS policy must refuse versions older than 1.2."
  }

  assert {
    condition     = google_container_cluster.pulse.gateway_api_config[0].channel == "CHANNEL_STANDARD" && !google_container_cluster.pulse.addons_config[0].http_load_balancing[0].disabled
    error_message = "Both are required for Gateways in the cluster."
  }

  assert {
    condition     = output.api_url == "https://events.example.com"
    error_message = "The API's URL must use https."
  }
}

run "storage" {
  command = plan

  assert {
    condition     = google_storage_bucket.export.name == "pulse-test-1-pulse-export"
    error_message = "The bucket's name must begin with the project's id, since bucket names are global."
  }

  assert {
    condition     = google_storage_bucket.export.versioning[0].enabled && google_storage_bucket.export.uniform_bucket_level_access && google_storage_bucket.export.public_access_prevention == "enforced"
    error_message = "The bucket must be versioned, with uniform access, and never public."
  }

  assert {
    condition     = one(google_storage_bucket.export.lifecycle_rule[0].condition).age == 90 && one(google_storage_bucket.export.lifecycle_rule[1].condition).days_since_noncurrent_time == 7
    error_message = "Exports must be deleted after 90 days, and their versions a week later."
  }

  assert {
    condition     = google_bigquery_table.events.time_partitioning[0].field == "timestamp" && google_bigquery_table.events.time_partitioning[0].type == "DAY" && google_bigquery_table.events.clustering == tolist(["customer_id", "event_type"])
    error_message = "The table must be partitioned by the day of timestamp, and clustered by customer and event type."
  }

  assert {
    condition     = google_artifact_registry_repository.images.docker_config[0].immutable_tags
    error_message = "A tag must be immutable."
  }
}
