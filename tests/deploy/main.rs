//! What is shipped beside the binary: the Helm chart, rendered by a real helm, and the compose file.
//!
//! `scripts/deploy-tools` fetches helm and the schemas at the first test.

mod chart;
mod compose;
mod config;
mod image;
mod manifests;
mod refused;
mod support;
