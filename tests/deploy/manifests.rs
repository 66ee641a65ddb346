//! The rendered objects: valid for Kubernetes, restricted, and with references that match.

use serde_json::Value;

use crate::support::{cases, objects, python, rendered, rendered_as, the};

/// The oldest and the newest Kubernetes that the chart supports. Chart.yaml names the oldest.
const VERSIONS: [&str; 2] = ["1.30", "1.37"];

pub(crate) fn validate(manifests: &str) -> Result<(), String> {
    let arguments = ["validate", VERSIONS[0], VERSIONS[1]];
    let output = python("tests/deploy/objects.py", &arguments, manifests);
    match output.status.success() {
        true => Ok(()),
        false => {
            Err(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
        }
    }
}

#[test]
fn every_manifest_is_valid_for_the_oldest_and_the_newest_kubernetes() {
    // All objects in one call, because reading the schemas takes most of the time.
    let manifests: Vec<_> = cases()
        .iter()
        .map(|case| rendered_as(case, case, &[]))
        .collect();
    validate(&manifests.join("\n---\n")).unwrap_or_else(|problems| panic!("{problems}"));
}

#[test]
fn the_validation_finds_unknown_fields_and_wrong_types() {
    let good = rendered("keda", &["podMonitor.enabled=true"]);
    let mistakes = [
        (
            "      automountServiceAccountToken: false\n",
            "      automountServiceAccountTokens: false\n",
            "'automountServiceAccountTokens' was unexpected",
        ),
        (
            "minReadySeconds: 0",
            "minReadySeconds: soon",
            "'soon' is not of type",
        ),
        (
            "  pollingInterval: 10",
            "  pollingIntervall: 10",
            ".spec.pollingIntervall: unknown field",
        ),
        (
            "  maxReplicaCount: 20",
            "  maxReplicaCount: many",
            "valid integer",
        ),
        (
            "      path: /metrics",
            "      paths: /metrics",
            ".spec.podMetricsEndpoints[0].paths: unknown field",
        ),
    ];
    let bad = mistakes.map(|(right, wrong, _)| {
        let bad = good.replace(right, wrong);
        assert_ne!(bad, good, "{right}");
        bad
    });
    let problems = validate(&bad.join("\n---\n")).expect_err("all are wrong");
    for (_, _, found) in mistakes {
        assert!(problems.contains(found), "{found:?} is not in {problems}");
    }
    for version in VERSIONS {
        assert!(problems.contains(&format!(": {version}: ")), "{problems}");
    }
}

#[test]
fn the_chart_says_which_kubernetes_it_needs() {
    let chart = crate::support::read("helm/lapwing/Chart.yaml");
    assert!(
        chart.contains(&format!("kubeVersion: \">={}.0-0\"", VERSIONS[0])),
        "{chart}"
    );
}

/// The pod specs of a case: the Deployment's, and that of `helm test`.
fn pods(all: &[Value]) -> [&Value; 2] {
    [
        &the(all, "Deployment")["spec"]["template"]["spec"],
        &the(all, "Pod")["spec"],
    ]
}

fn list<'value>(value: &'value Value, key: &str) -> &'value [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

/// The Pod Security Standard "restricted", and a read-only root file system.
#[test]
fn pods_are_restricted() {
    for case in cases() {
        let all = objects(&case, &[]);
        for pod in pods(&all) {
            let context = &pod["securityContext"];
            assert_eq!(context["runAsNonRoot"], true, "{case}");
            assert_eq!(
                context["seccompProfile"]["type"], "RuntimeDefault",
                "{case}"
            );
            assert_ne!(context["runAsUser"], 0, "{case}");
            for host in ["hostNetwork", "hostPID", "hostIPC"] {
                assert!(pod[host].is_null(), "{case}: {host}");
            }
            for container in [list(pod, "containers"), list(pod, "initContainers")].concat() {
                let context = &container["securityContext"];
                assert_eq!(
                    context["allowPrivilegeEscalation"], false,
                    "{case}: {container}"
                );
                assert_eq!(
                    context["capabilities"]["drop"][0], "ALL",
                    "{case}: {container}"
                );
            }
            let ours = &pod["containers"][0];
            assert_eq!(
                ours["securityContext"]["readOnlyRootFilesystem"], true,
                "{case}"
            );
            for volume in list(pod, "volumes") {
                assert!(volume["hostPath"].is_null(), "{case}: {volume}");
            }
        }
    }
}

/// Whether the labels match the selector.
fn selects(selector: &Value, labels: &Value) -> bool {
    let wanted = selector.as_object().expect("a selector");
    !wanted.is_empty() && wanted.iter().all(|(key, value)| labels[key] == *value)
}

#[test]
fn selectors_find_the_workers_and_nothing_else() {
    let all = [objects("everything", &[]), objects("keda", &[])];
    for all in &all {
        let worker = &the(all, "Deployment")["spec"]["template"]["metadata"]["labels"];
        let test = &the(all, "Pod")["metadata"]["labels"];
        let service = the(all, "Service");
        let spread =
            &the(all, "Deployment")["spec"]["template"]["spec"]["topologySpreadConstraints"];
        let mut selectors = vec![
            &the(all, "Deployment")["spec"]["selector"]["matchLabels"],
            &service["spec"]["selector"],
            &the(all, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
            &spread[0]["labelSelector"]["matchLabels"],
        ];
        for object in all {
            match object["kind"].as_str() {
                Some("PodMonitor") => selectors.push(&object["spec"]["selector"]["matchLabels"]),
                Some("NetworkPolicy") => {
                    selectors.push(&object["spec"]["podSelector"]["matchLabels"])
                }
                Some("ServiceMonitor") => {
                    let selector = &object["spec"]["selector"]["matchLabels"];
                    assert!(
                        selects(selector, &service["metadata"]["labels"]),
                        "{selector}"
                    );
                }
                _ => {}
            }
        }
        for selector in selectors {
            assert!(selects(selector, worker), "{selector}");
            assert!(!selects(selector, test), "{selector}");
        }
    }
}

#[test]
fn ports_that_are_named_exist() {
    let all = objects("everything", &[]);
    let pod = &the(&all, "Deployment")["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let exists = |port: &Value| {
        list(container, "ports")
            .iter()
            .any(|have| have["name"] == *port)
    };
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        assert!(exists(&container[probe]["httpGet"]["port"]), "{probe}");
    }
    for port in list(&the(&all, "Service")["spec"], "ports") {
        assert!(exists(&port["targetPort"]), "{port}");
    }
    for port in list(&the(&all, "NetworkPolicy")["spec"]["ingress"][0], "ports") {
        assert!(exists(&port["port"]), "{port}");
    }
    assert!(exists(
        &the(&all, "PodMonitor")["spec"]["podMetricsEndpoints"][0]["port"]
    ));
    let service = list(&the(&all, "Service")["spec"], "ports");
    let scraped = &the(&all, "ServiceMonitor")["spec"]["endpoints"][0]["port"];
    assert!(service.iter().any(|port| port["name"] == *scraped));
}

#[test]
fn what_a_scaler_owns_the_deployment_leaves_alone() {
    for (case, replicas) in [("minimal", true), ("keda", false), ("hpa", false)] {
        let all = objects(case, &[]);
        let spec = &the(&all, "Deployment")["spec"];
        assert_eq!(spec["replicas"].is_number(), replicas, "{case}");
    }
    let all = objects("keda", &[]);
    let name = &the(&all, "Deployment")["metadata"]["name"];
    assert_eq!(
        the(&all, "ScaledObject")["spec"]["scaleTargetRef"]["name"],
        *name
    );
    assert_eq!(
        the(&objects("hpa", &[]), "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"],
        *name
    );
}

#[test]
fn keda_counts_unacked_messages_and_is_told_where_by_a_secret() {
    let all = objects("keda", &[]);
    let triggers = list(&the(&all, "ScaledObject")["spec"], "triggers");
    let of = |queue: &str| {
        let found = triggers
            .iter()
            .find(|trigger| trigger["metadata"]["queueName"] == queue);
        &found.expect("a trigger")["metadata"]
    };
    assert_eq!(
        (&of("videos")["value"], &of("thumbs")["value"]),
        (&"2".into(), &"500".into())
    );
    for queue in ["videos", "thumbs"] {
        assert_eq!(of(queue)["protocol"], "http");
        assert_eq!(of(queue)["excludeUnacknowledged"], "false");
    }
    let reference = &the(&all, "TriggerAuthentication")["spec"]["secretTargetRef"][0];
    let secret = all
        .iter()
        .find(|object| object["kind"] == "Secret")
        .expect("a Secret");
    assert_eq!(reference["name"], secret["metadata"]["name"]);
    assert!(!secret["stringData"][reference["key"].as_str().expect("a key")].is_null());
}

#[test]
fn no_secret_is_in_anything_but_a_secret() {
    for case in cases() {
        for object in objects(&case, &[]) {
            let text = object.to_string();
            let is_secret = object["kind"] == "Secret";
            assert!(
                is_secret || !text.contains("s3cret") && !text.contains("correct-horse"),
                "{text}"
            );
        }
    }
}

/// Secrets are mounted as folders: a file mounted by subPath never changes in a running pod.
#[test]
fn mounts_have_volumes_and_secrets_can_rotate() {
    for case in cases() {
        let all = objects(&case, &[]);
        for pod in pods(&all) {
            let volumes: Vec<_> = list(pod, "volumes")
                .iter()
                .map(|volume| &volume["name"])
                .collect();
            for container in [list(pod, "containers"), list(pod, "initContainers")].concat() {
                for mount in list(&container, "volumeMounts") {
                    assert!(volumes.contains(&&mount["name"]), "{case}: {mount}");
                    assert!(mount["subPath"].is_null(), "{case}: {mount}");
                }
            }
        }
    }
}

#[test]
fn a_change_of_configuration_or_of_the_charts_secret_rolls_the_pods_and_nothing_else_does() {
    let annotations =
        |set: &[&str]| the(&objects("minimal", set), "Deployment")["spec"]["template"].to_string();
    let before = annotations(&[]);
    for rolls in [
        "config.consumers.orders.prefetch=32",
        "broker.url=amqp://new:pw@rabbit",
        "admin.token=sixteen-letters-at-least",
    ] {
        assert_ne!(annotations(&[rolls]), before, "{rolls}");
    }
    for stays in [
        "replicaCount=7",
        "podDisruptionBudget.maxUnavailable=2",
        "service.annotations.a=b",
    ] {
        assert_eq!(annotations(&[stays]), before, "{stays}");
    }
}

#[test]
fn names_fit_kubernetes() {
    let long = format!("fullnameOverride={}", "a".repeat(60));
    for object in objects("keda", &[&long]) {
        let name = object["metadata"]["name"].as_str().expect("a name");
        assert!(name.len() <= 63, "{name}");
    }
}

/// The deletion cost is off by default, and its objects apply to the worker's account only.
#[test]
fn the_deletion_cost_brings_its_rights_and_their_bounds() {
    let off = objects("minimal", &[]);
    let kinds = ["Role", "RoleBinding", "ValidatingAdmissionPolicy"];
    assert!(
        !off.iter()
            .any(|object| kinds.iter().any(|kind| object["kind"] == *kind))
    );
    assert_eq!(pods(&off)[0]["automountServiceAccountToken"], false);

    let on = objects("everything", &[]);
    let pod = pods(&on)[0];
    assert_eq!(pod["automountServiceAccountToken"], true);
    assert_eq!(pods(&on)[1]["automountServiceAccountToken"], false);
    let account = the(&on, "RoleBinding")["subjects"][0]["name"]
        .as_str()
        .expect("a name");
    assert_eq!(pod["serviceAccountName"], account);
    let role = &the(&on, "Role")["rules"];
    assert_eq!(
        *role,
        serde_json::json!([{ "apiGroups": [""], "resources": ["pods"], "verbs": ["patch"] }])
    );
    let policy = the(&on, "ValidatingAdmissionPolicy");
    let who = policy["spec"]["matchConditions"][0]["expression"]
        .as_str()
        .expect("a text");
    assert!(
        who.ends_with(&format!("\"system:serviceaccount:default:{account}\"")),
        "{who}"
    );
    let bound = &the(&on, "ValidatingAdmissionPolicyBinding")["spec"]["policyName"];
    assert_eq!(*bound, policy["metadata"]["name"]);
}
