# Values that are refused before any resource is built.

mock_provider "google" {}

variables {
  project_id  = "pulse-test-1"
  alert_email = "oncall@example.com"
  api_host    = "events.example.com"
}

run "project_id" {
  command = plan
  variables { project_id = "My Project" }
  expect_failures = [var.project_id]
}

run "alert_email" {
  command = plan
  variables { alert_email = "oncall" }
  expect_failures = [var.alert_email]
}

run "a_zone_is_no_region" {
  command = plan
  variables { region = "europe-west1-b" }
  expect_failures = [var.region]
}

run "environment" {
  command = plan
  variables { environment = "prod" }
  expect_failures = [var.environment]
}

run "machines_of_another_architecture" {
  command = plan
  variables { machine_type = "t2a-standard-2" }
  expect_failures = [var.machine_type]
}

run "one_node_for_pods_that_want_two" {
  command = plan
  variables { node_count = { min = 1, max = 1 } }
  expect_failures = [var.node_count]
}

run "cidr" {
  command = plan
  variables { cidr = { nodes = "10.10.0.0", pods = "10.20.0.0/16", services = "10.30.0.0/20" } }
  expect_failures = [var.cidr]
}

run "api_host_with_a_scheme" {
  command = plan
  variables { api_host = "https://events.example.com" }
  expect_failures = [var.api_host]
}

run "api_host_without_a_domain" {
  command = plan
  variables { api_host = "203.0.113.7" }
  expect_failures = [var.api_host]
}

run "export_members" {
  command = plan
  variables { export_members = ["allUsers"] }
  expect_failures = [var.export_members]
}
