//! Parts of the chart that values switch on.

use serde_json::Value;

use crate::support::{objects, printed, rendered, the};

fn list<'value>(value: &'value Value, key: &str) -> &'value [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

/// The object of this kind with this end of its name.
fn named<'all>(all: &'all [Value], kind: &str, end: &str) -> Option<&'all Value> {
    all.iter().find(|object| {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        object["kind"] == kind && name.ends_with(end)
    })
}

fn alerts(all: &[Value]) -> Vec<&Value> {
    let groups = list(&the(all, "PrometheusRule")["spec"], "groups");
    groups
        .iter()
        .flat_map(|group| list(group, "rules"))
        .collect()
}

#[test]
fn alerts_have_labels_links_and_no_alert_about_pods_that_need_not_be() {
    const ON: &str = "prometheusRule.enabled=true";
    let names = |set: &[&str]| -> Vec<String> {
        let all = objects("keda", set);
        let name = |alert: &&Value| alert["alert"].as_str().map(str::to_owned);
        alerts(&all).iter().filter_map(name).collect()
    };
    let one = names(&[ON]);
    assert!(one.len() > 15 && one.contains(&"LapwingAbsent".to_owned()));
    let zero = names(&[ON, "keda.minReplicas=0"]);
    assert!(!zero.contains(&"LapwingAbsent".to_owned()), "{zero:?}");
    assert!(zero.contains(&"LapwingBacklog".to_owned()), "{zero:?}");
    let without = names(&[
        ON,
        "prometheusRule.disabled={LapwingRetryStorm,LapwingDown}",
    ]);
    assert_eq!(without.len(), one.len() - 2);

    let all = objects("operator", &[]);
    for alert in alerts(&all) {
        let link = alert["annotations"]["runbook_url"]
            .as_str()
            .expect("a link");
        let name = alert["alert"].as_str().expect("a name").to_lowercase();
        let page = "https://git.example.com/lapwing/blob/main/docs/failures.md";
        assert_eq!(link, format!("{page}#{name}"));
        assert_eq!(alert["labels"]["team"], "orders");
        assert!(!alert["labels"]["severity"].is_null());
    }
    assert!(!rendered("minimal", &[]).contains("PrometheusRule"));
}

#[test]
fn the_dashboard_is_found_by_grafana() {
    let all = objects("operator", &[]);
    let map = named(&all, "ConfigMap", "-dashboard").expect("a dashboard");
    assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
    let text = map["data"]["lapwing.json"].as_str().expect("a text");
    let copied: Value = serde_json::from_str(text).expect("JSON");
    let ours = crate::support::read("deploy/grafana/lapwing.json");
    assert_eq!(copied, serde_json::from_str::<Value>(&ours).expect("JSON"));
}

/// The Secret of the RabbitMQ Cluster Operator works as it is.
#[test]
fn user_password_and_host_can_be_keys_of_a_secret() {
    let all = objects("operator", &[]);
    let worker = &the(&all, "Deployment")["spec"]["template"]["spec"];
    let check = &the(&all, "Pod")["spec"]["initContainers"][0];
    let job = named(&all, "Job", "-topology").expect("a Job");
    let job = &job["spec"]["template"]["spec"]["containers"][0];
    for container in [&worker["containers"][0], check, job] {
        let env = list(container, "env");
        let of = |name: &str| env.iter().position(|one| one["name"] == name);
        let url = of("LAPWING__BROKER__URL").expect("a URL");
        assert_eq!(
            env[url]["value"],
            "amqp://$(BROKER_USER)@$(BROKER_HOST):$(BROKER_PORT)/%2Fshop"
        );
        for (name, key) in [
            ("BROKER_USER", "username"),
            ("BROKER_HOST", "host"),
            ("BROKER_PORT", "port"),
        ] {
            let at = of(name).expect("a variable");
            assert!(at < url, "Kubernetes expands only earlier variables");
            let wanted = serde_json::json!({ "name": "rabbit-default-user", "key": key });
            assert_eq!(env[at]["valueFrom"]["secretKeyRef"], wanted);
        }
    }
    let broker = list(worker, "volumes")
        .iter()
        .find(|one| one["name"] == "broker");
    assert_eq!(
        broker.expect("a volume")["secret"]["items"],
        serde_json::json!([{ "key": "password", "path": "password" }])
    );
    let own_host = objects(
        "operator",
        &[
            "broker.credentials.host=rabbit",
            "broker.credentials.port=5671",
            "broker.credentials.tls=true",
        ],
    );
    let env = the(&own_host, "Deployment")["spec"]["template"]["spec"]["containers"][0]["env"]
        .to_string();
    assert!(
        env.contains(r#"{"name":"BROKER_HOST","value":"rabbit"}"#),
        "{env}"
    );
    assert!(
        env.contains(r#"{"name":"BROKER_PORT","value":"5671"}"#),
        "{env}"
    );
    assert!(env.contains("amqps://$(BROKER_USER)"), "{env}");
}

#[test]
fn variables_can_be_a_list_or_a_map() {
    let env = |case| {
        let all = objects(case, &[]);
        list(
            &the(&all, "Deployment")["spec"]["template"]["spec"]["containers"][0],
            "env",
        )
        .to_vec()
    };
    let map = env("operator");
    let proxy = serde_json::json!({ "name": "HTTP_PROXY", "value": "http://proxy:3128" });
    assert!(map.contains(&proxy), "{map:?}");
    let field = map.iter().find(|one| one["name"] == "POD_IP");
    assert_eq!(
        field.expect("a variable")["valueFrom"]["fieldRef"]["fieldPath"],
        "status.podIP"
    );
    let list = env("everything");
    assert!(
        list.iter()
            .any(|one| !one["valueFrom"]["secretKeyRef"].is_null())
    );
}

#[test]
fn keda_keeps_a_pod_unless_it_is_asked_for_none() {
    let min = |set: &[&str]| {
        the(&objects("keda", set), "ScaledObject")["spec"]["minReplicaCount"].clone()
    };
    assert_eq!(min(&[]), 1);
    assert_eq!(min(&["keda.minReplicas=0"]), 0);
}

/// While no pod runs, nobody makes the queues: publishers would be refused.
#[test]
fn a_job_makes_the_queues_of_a_release_that_may_have_no_pod() {
    for (case, set, wanted) in [
        ("minimal", &[][..], false),
        ("minimal", &["replicaCount=0"], true),
        ("hpa", &["replicaCount=0"], false),
        ("keda", &[], false),
        ("keda", &["keda.minReplicas=0"], true),
        ("keda", &["keda.minReplicas=0", "topologyJob=false"], false),
        ("keda", &["workload=job"], true),
    ] {
        let all = objects(case, set);
        let job = named(&all, "Job", "-topology");
        assert_eq!(job.is_some(), wanted, "{case} {set:?}");
        let test = the(&all, "Pod")["spec"]["containers"][0]["args"].to_string();
        let may_be_empty = wanted || set.contains(&"topologyJob=false");
        assert_eq!(test.contains("--if-any"), may_be_empty, "{case}: {test}");
        let Some(job) = job else { continue };
        let hook = &job["metadata"]["annotations"]["helm.sh/hook"];
        assert_eq!(hook, "post-install,post-upgrade");
        let pod = &job["spec"]["template"];
        assert_eq!(
            pod["spec"]["containers"][0]["args"].to_string(),
            r#"["run","--until-ready"]"#
        );
        // A limit of the worker would end it with 0, as if the queues were there.
        assert_eq!(job["spec"]["activeDeadlineSeconds"], 280);
        assert_eq!(
            pod["metadata"]["labels"]["app.kubernetes.io/component"], "topology",
            "no Service sends requests to it, and no monitor scrapes it"
        );
    }
}

#[test]
fn a_job_for_each_batch_of_messages_works_it_off_and_ends() {
    let all = objects(
        "keda",
        &["workload=job", "job.maxMessages=100", "job.maxTime=6h"],
    );
    for gone in ["Deployment", "ScaledObject", "PodDisruptionBudget"] {
        assert!(named(&all, gone, "").is_none(), "{gone}");
    }
    let job = &the(&all, "ScaledJob")["spec"];
    let pod = &job["jobTargetRef"]["template"];
    assert_eq!(
        pod["spec"]["containers"][0]["args"].to_string(),
        r#"["run","--until-empty","--max-messages","100","--max-time","6h"]"#
    );
    assert_eq!(pod["spec"]["restartPolicy"], "Never");
    for probe in ["startupProbe", "readinessProbe"] {
        assert!(pod["spec"]["containers"][0][probe].is_null(), "{probe}");
    }
    assert_eq!(job["rollout"]["strategy"], "gradual");
    assert_eq!(list(job, "triggers").len(), 3);
    let selector = the(&all, "Service")["spec"]["selector"].clone();
    for (key, value) in selector.as_object().expect("a selector") {
        assert_eq!(
            pod["metadata"]["labels"][key], *value,
            "metrics are scraped"
        );
    }
    crate::manifests::validate(&rendered("keda", &["workload=job"]))
        .unwrap_or_else(|problems| panic!("{problems}"));
}

/// `helm test` never passes without having asked a pod, unless no pod is wanted.
#[test]
fn helm_test_asks_a_pod_even_without_a_service() {
    let all = objects("minimal", &["service.enabled=false"]);
    let test = &the(&all, "Pod")["spec"]["containers"][0]["args"];
    let name = format!(
        "{}-test",
        the(&all, "Deployment")["metadata"]["name"]
            .as_str()
            .expect("a name")
    );
    assert_eq!(
        test.to_string(),
        format!(r#"["health","--ready","--at","{name}:9091"]"#)
    );
    let service = named(&all, "Service", "-test").expect("its own Service");
    assert_eq!(service["metadata"]["name"], name.as_str());
    assert_eq!(service["metadata"]["annotations"]["helm.sh/hook"], "test");
    assert_eq!(service["spec"]["clusterIP"], "None");
    let labels = &the(&all, "Deployment")["spec"]["template"]["metadata"]["labels"];
    for (key, value) in service["spec"]["selector"].as_object().expect("a selector") {
        assert_eq!(labels[key], *value);
    }
}

/// Somebody who may read pods, but no Secrets, must not be able to try passwords offline.
#[test]
fn the_annotation_for_a_changed_secret_is_no_plain_hash_of_it() {
    use std::process::Command;
    let all = objects("minimal", &[]);
    let secret = &the(&all, "Secret")["stringData"];
    let annotation =
        the(&all, "Deployment")["spec"]["template"]["metadata"]["annotations"]["checksum/secret"]
            .as_str()
            .expect("an annotation");
    let secrets = format!(r#"[{},""]"#, secret["url"]);
    let script = "import hashlib,sys; print(hashlib.sha256(sys.argv[1].encode()).hexdigest())";
    let plain = Command::new("python3")
        .args(["-c", script, &secrets])
        .output();
    let plain = printed("python3", plain.expect("it starts"));
    assert_ne!(plain.trim(), annotation);
    // The same secret has another annotation in another release.
    let other = crate::support::rendered_as("other", "minimal", &[]);
    assert!(!other.contains(annotation));
}

#[test]
fn a_failing_pod_says_why_where_kubectl_describe_shows_it() {
    let all = objects("operator", &[]);
    for pod in [
        &the(&all, "Deployment")["spec"]["template"]["spec"],
        &named(&all, "Job", "-topology").expect("a Job")["spec"]["template"]["spec"],
    ] {
        assert_eq!(
            pod["containers"][0]["terminationMessagePolicy"],
            "FallbackToLogsOnError"
        );
    }
}

#[test]
fn the_console_behind_an_ingress_knows_its_host() {
    let all = objects("operator", &[]);
    let rule = &the(&all, "Ingress")["spec"]["rules"][0];
    assert_eq!(rule["host"], "lapwing.example.com");
    let backend = &rule["http"]["paths"][0]["backend"]["service"];
    let service = the(&all, "Service");
    assert_eq!(backend["name"], service["metadata"]["name"]);
    let ports = list(&service["spec"], "ports");
    assert!(
        ports
            .iter()
            .any(|port| port["name"] == backend["port"]["name"])
    );
    let config = named(&all, "ConfigMap", "orders-lapwing").expect("a configuration");
    let toml = config["data"]["lapwing.toml"].as_str().expect("a text");
    assert!(
        toml.contains(r#"origins = ["https://lapwing.example.com"]"#),
        "{toml}"
    );
}
