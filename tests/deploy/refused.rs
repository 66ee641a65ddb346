//! Wrong values: helm refuses them before it installs anything, with an error that names the value.

use crate::support::{CHART, helm, values_file};

/// Helm's error for the values of a case with these changes, in helm's `--set` notation.
fn refusal(case: &str, set: &[&str]) -> String {
    let file = values_file(case);
    let mut arguments = vec!["template", "r", CHART, "--values", &file];
    for value in set {
        arguments.extend(["--set-json", value]);
    }
    let output = helm(&arguments);
    assert!(!output.status.success(), "{set:?} was taken");
    String::from_utf8(output.stderr).expect("it prints text")
}

#[track_caller]
fn refused(case: &str, set: &[&str], words: &[&str]) {
    let text = refusal(case, set);
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}

#[test]
fn values_of_a_wrong_type_or_name() {
    for (set, words) in [
        (r#"replicaCount="two""#, ["/replicaCount", "want integer"]),
        (r#"replicas=2"#, ["'replicas'", "not allowed"]),
        (
            r#"image.pullPolicy="Sometimes""#,
            ["/image/pullPolicy", "IfNotPresent"],
        ),
        (
            r#"image.digest="sha256:12""#,
            ["/image/digest", "does not match"],
        ),
        (r#"ports.probes=99999"#, ["/ports/probes", "maximum"]),
        (r#"hpa.maxReplicas=0"#, ["/hpa/maxReplicas", "minimum"]),
        (
            r#"keda.fallback={"replicas":"two"}"#,
            ["/keda/fallback/replicas", "want integer"],
        ),
        (
            r#"podDisruptionBudget.maxUnavailable="half""#,
            ["/podDisruptionBudget/maxUnavailable", "half"],
        ),
        (
            r#"readinessProbe.httpGet={}"#,
            ["/readinessProbe", "'httpGet' not allowed"],
        ),
        (
            r#"podMonitor.interval="often""#,
            ["/podMonitor/interval", "often"],
        ),
    ] {
        refused("minimal", &[set], &words);
    }
}

#[test]
fn settings_of_the_worker_that_it_does_not_have() {
    for (set, words) in [
        (
            r#"config.consumers.orders.prefech=3"#,
            ["/config/consumers/orders", "'prefech' not allowed"],
        ),
        (
            r#"config.consumers.orders.prefetch=0"#,
            ["/prefetch", "minimum"],
        ),
        (
            r#"config.consumers.orders.prefetch=2.5"#,
            ["/prefetch", "want integer"],
        ),
        (
            r#"config.consumers.orders.queue_type="stream""#,
            ["/queue_type", "'quorum'"],
        ),
        (
            r#"config.consumers.orders.handler.kind="htttp""#,
            ["/handler/kind", "'http'"],
        ),
        (
            r#"config.consumers.Orders={"queue":"x"}"#,
            ["'Orders'", "does not match"],
        ),
        (
            r#"config.consumers.more={}"#,
            ["/config/consumers/more", "queue"],
        ),
        (
            r#"config.drain.grace=25"#,
            ["/config/drain/grace", "want string"],
        ),
        (
            r#"config.drain.grace="25 parsecs""#,
            ["/config/drain/grace", "25 parsecs"],
        ),
        (r#"config.drian={}"#, ["/config", "'drian' not allowed"]),
    ] {
        refused("minimal", &[set], &words);
    }
}

#[test]
fn values_that_contradict_one_another() {
    for (case, set, word) in [
        (
            "minimal",
            r#"config.consumers=null"#,
            "config.consumers: name at least one queue",
        ),
        (
            "minimal",
            r#"workload="job""#,
            "workload: job needs keda.enabled",
        ),
        (
            "minimal",
            r#"broker.credentials.enabled=true"#,
            "broker.credentials: set broker.existingSecret",
        ),
        (
            "minimal",
            r#"networkPolicy.enabled=true"#,
            "networkPolicy: would cut off the handler of config.consumers.orders at orders.default.svc",
        ),
        (
            "minimal",
            r#"largestBody="2Mi""#,
            "resources.limits.memory: 64 messages (prefetch) of 2Mi (largestBody) may need 3 times \
             their size and 32Mi, 416Mi",
        ),
        (
            "minimal",
            r#"config.consumers.orders.prefetch=5000"#,
            "resources.limits.memory: 5000 messages",
        ),
        (
            "minimal",
            r#"ingress.enabled=true"#,
            "ingress: set ingress.host and admin.expose",
        ),
        (
            "minimal",
            r#"broker.url="""#,
            "broker: set broker.url, or broker.existingSecret",
        ),
        (
            "minimal",
            r#"broker.existingSecret="x""#,
            "broker: set url or existingSecret, not both",
        ),
        (
            "minimal",
            r#"broker.tls.certKey="tls.crt""#,
            "broker.tls: certKey and keyKey belong together",
        ),
        (
            "everything",
            r#"admin.existingSecret="x""#,
            "admin: set token or existingSecret, not both",
        ),
        (
            "minimal",
            r#"ports.admin=9091"#,
            "ports: admin and probes must differ",
        ),
        (
            "keda",
            r#"hpa.enabled=true"#,
            "hpa.enabled and keda.enabled: choose one",
        ),
        (
            "hpa",
            r#"hpa.minReplicas=31"#,
            "hpa: minReplicas is 31, must not be above maxReplicas (30)",
        ),
        (
            "keda",
            r#"keda.rabbitmq.managementUrl="""#,
            "keda.rabbitmq: set managementUrl, or existingSecret",
        ),
        (
            "keda",
            r#"keda.rabbitmq.existingSecret="x""#,
            "keda.rabbitmq: set managementUrl or existingSecret, not both",
        ),
        (
            "keda",
            r#"keda.rabbitmq.consumers.films={"activation":1}"#,
            "keda.rabbitmq.consumers.films: config.consumers has no such",
        ),
        (
            "existing-secrets",
            r#"keda.rabbitmq.enabled=false"#,
            "keda: set rabbitmq.enabled or extraTriggers",
        ),
        (
            "existing-secrets",
            r#"serviceMonitor.enabled=true"#,
            "serviceMonitor.enabled: needs service.enabled",
        ),
        (
            "existing-secrets",
            r#"admin.expose=true"#,
            "admin.expose: needs service.enabled",
        ),
        (
            "minimal",
            r#"extraEnv=[{"name":"LAPWING__DRAIN__GRACE","value":"1h"}]"#,
            "extraEnv: LAPWING__DRAIN__GRACE is to be set by config, from which",
        ),
        (
            "minimal",
            r#"config.broker={"url":"amqp://rabbit"}"#,
            "config.broker.url: is made by the chart, set the value broker.url",
        ),
        (
            "minimal",
            r#"config.admin={"probes":"off"}"#,
            "config.admin.probes: is made by the chart, set the value ports.probes",
        ),
    ] {
        refused(case, &[set], &[word]);
    }
    let nothing = [
        r#"hpa.metrics=[]"#,
        r#"hpa.targetCPUUtilizationPercentage=null"#,
    ];
    refused(
        "hpa",
        &nothing,
        &["hpa: set targetCPUUtilizationPercentage or metrics"],
    );
}

#[test]
fn a_url_that_is_wrong_is_not_printed() {
    for set in [
        r#"broker.url="http://u:s3cret@rabbit""#,
        r#"keda.rabbitmq.managementUrl="amqp://u:s3cret@rabbit""#,
    ] {
        let text = refusal("minimal", &[set]);
        assert!(
            text.contains("must begin with") && !text.contains("s3cret"),
            "{text}"
        );
    }
}
