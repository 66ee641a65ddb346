//! `[pod_deletion_cost]`.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{Findings, HOUR, KeyPath, SECOND, Span};

/// Which replica Kubernetes removes first when it scales in: the worker writes the number of its
/// deliveries in flight into the annotation `controller.kubernetes.io/pod-deletion-cost` of its pod,
/// so Kubernetes removes the pod that does least. The worker needs the right to patch pods; see
/// [kubernetes.md](kubernetes.md#which-pod-ends-first).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PodDeletionCostSettings {
    /// The name of the pod that the worker runs in. Empty: the worker writes nothing. Default:
    /// empty.
    pub pod: String,
    /// How often the worker looks at the number; it writes only a number that has changed. Too low:
    /// many writes to the cluster's API server from every replica. Too high: Kubernetes may remove a
    /// pod that has become busy. Default: `30s`.
    #[serde(with = "Span::<SECOND, HOUR>")]
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

impl PodDeletionCostSettings {
    pub(crate) fn check(&self, findings: &mut Findings) {
        // The name becomes part of a URL.
        let is_name = |pod: &str| {
            pod.chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.'))
        };
        if !is_name(&self.pod) {
            let path = KeyPath::of("pod_deletion_cost.pod");
            findings.add(path, "must be the name of a pod");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::samples::{Sample, sections};

    sections!({ pod_deletion_cost: PodDeletionCostSettings }, |it, findings| {
        it.pod_deletion_cost.check(findings);
    });

    #[test]
    fn pod_and_interval_are_checked() {
        Sections::refused(&[
            (
                "pod_deletion_cost.pod = \"../secrets/a\"",
                "pod_deletion_cost.pod: must be the name of a pod",
            ),
            (
                "pod_deletion_cost.interval = \"100ms\"",
                "pod_deletion_cost.interval: is 100ms, must be 1s to 1h",
            ),
        ]);
    }
}
