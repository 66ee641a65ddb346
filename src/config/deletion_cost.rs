//! `[pod_deletion_cost]`: which replica Kubernetes takes first when it scales in.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `[pod_deletion_cost]`: the worker writes what it has in flight into the annotation
/// `controller.kubernetes.io/pod-deletion-cost` of its pod, so that scaling in takes the idlest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PodDeletionCostSettings {
    /// The name of the pod that this worker runs in. Default: empty, and nothing is written.
    pub pod: String,
    /// From one look to the next; what has not changed is not written. Default: 30 s. Too low:
    /// writes that the cluster's API server must take from every replica. Too high: the busiest
    /// may be taken for the idlest.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
}

impl Default for PodDeletionCostSettings {
    fn default() -> Self {
        Self {
            pod: String::new(),
            interval: Duration::from_secs(30),
        }
    }
}
