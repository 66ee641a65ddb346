//! The OpenAPI document describes exactly the routes that the server has.

use std::collections::BTreeSet;

use lapwing::Settings;
use lapwing::Worker;
use reqwest::Method;
use serde_json::Value;

use crate::support::{ADMIN, Admin, Events, TOKEN, admin::answer};

/// An admin server whose worker never runs: these tests need no broker.
fn server() -> (Worker, Admin) {
    let consumer = "[timeouts]\ncall = '10ms'\ndeclare = '10ms'\n[consumers.q]\nqueue = 'q'\n";
    let settings = Settings::from_toml(&format!("{ADMIN}{consumer}")).expect("they are valid");
    let worker = Worker::new(settings.clone());
    let admin = Admin::start(&settings, &worker.handle());
    (worker, admin)
}

/// The document's operations: path and method.
fn operations(document: &Value) -> BTreeSet<(String, Method)> {
    let paths = document["paths"].as_object().expect("it has paths");
    let operations = paths.iter().flat_map(|(path, item)| {
        let methods = item.as_object().expect("it has methods").keys();
        methods.map(move |method| {
            let method = method.to_uppercase().parse().expect("it is a method");
            (path.clone(), method)
        })
    });
    operations.collect()
}

#[tokio::test]
async fn every_route_is_in_the_document_and_every_operation_is_a_route() {
    let (_worker, admin) = server();
    let document = admin.read("/api/v1/openapi.json").await;
    let operations = operations(&document);
    let methods = [
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
    ];
    let paths: BTreeSet<&String> = operations.iter().map(|(path, _)| path).collect();
    for path in paths {
        let filled = path.replace("{consumer}", "q").replace("{delivery}", "1-1");
        let filled = filled.replace("{job}", "1");
        if path == "/api/v1/events" {
            drop(Events::open(&admin).await);
            continue;
        }
        for method in &methods {
            let request = admin.request(method.clone(), &filled).bearer_auth(TOKEN);
            let (status, body) = answer(request).await;
            let is_described = operations.contains(&(path.clone(), method.clone()));
            assert_eq!(
                status != 405,
                is_described,
                "{method} {path}: {status} {body}"
            );
            assert_ne!(body["error"], "no such page", "{method} {path}");
        }
    }
    // A handler that is described and not routed is missing above. The number shows that.
    assert_eq!(
        operations.len(),
        described_in_the_source(),
        "{operations:?}"
    );
}

/// The number of handlers that the source describes. The router that makes the document accepts
/// only described handlers. The console's two routes are the only other ones.
fn described_in_the_source() -> usize {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/admin");
    let (mut described, mut others) = (0, 0);
    for folder in [folder.join("dead"), folder] {
        for entry in std::fs::read_dir(folder).expect("it is there") {
            let path = entry.expect("it is read").path();
            if path.is_file() {
                let text = std::fs::read_to_string(path).expect("it is text");
                described += text.matches("#[utoipa::path(").count();
                others += text.matches(".route(").count();
            }
        }
    }
    assert_eq!(others, 2, "routes that the document does not have");
    described
}

#[tokio::test]
async fn the_document_describes_what_it_names() {
    let (_worker, admin) = server();
    let document = admin.read("/api/v1/openapi.json").await;
    assert_eq!(document["openapi"], "3.1.0");
    for (path, item) in document["paths"].as_object().expect("it has paths") {
        for (method, operation) in item.as_object().expect("it has methods") {
            assert!(operation["summary"].is_string(), "{method} {path}");
            let responses = operation["responses"].as_object().expect("it answers");
            for (status, response) in responses {
                let text = response["description"].as_str().unwrap_or_default();
                assert!(!text.is_empty(), "{method} {path} {status}");
            }
            // Every change needs the token.
            assert_eq!(
                operation["security"].is_array(),
                method != "get",
                "{method} {path}"
            );
        }
    }
    let text = document.to_string();
    let schemas = document["components"]["schemas"].as_object();
    let schemas = schemas.expect("it has schemas");
    for reference in text.split("#/components/schemas/").skip(1) {
        let name = reference.split('"').next().expect("it ends");
        assert!(schemas.contains_key(name), "{name}");
    }
    for name in [
        "Worker",
        "Consumer",
        "InFlight",
        "Outcome",
        "State",
        "OutcomeList",
        "Error",
    ] {
        assert!(schemas.contains_key(name), "{name}");
    }
}
