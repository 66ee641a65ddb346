//! Dead letters by the API: imports, and dry runs.

use reqwest::Method;
use serde_json::{Value, json};

use super::dead::{BASE, DEAD, fail, job, look, post, start};
use crate::support::{Admin, DEADLINE, TOKEN, admin::answer, vhost, within};

/// The answer to an import of these lines.
async fn import(admin: &Admin, lines: String) -> (u16, Value) {
    let request = admin.request(Method::POST, &format!("{BASE}/import"));
    let request = request.bearer_auth(TOKEN).body(lines);
    answer(request.header("content-type", "application/x-ndjson")).await
}

#[tokio::test]
async fn exported_letters_are_imported_and_a_line_that_is_none_imports_nothing() {
    let vhost = vhost().await;
    let (worker, admin, _) = start(&vhost).await;
    let ids = fail(&vhost, 3).await;
    let request = admin.request(Method::POST, &format!("{BASE}/export"));
    let request = request
        .header("content-type", "application/json")
        .body("{}");
    let exported = within("the answer", request.bearer_auth(TOKEN).send()).await;
    let exported = within("the lines", exported.expect("an answer").text()).await;
    let exported = exported.expect("all lines");
    // The client has all lines a moment before the job has returned the letters.
    let ended = |answer: &(u16, Value)| answer.1["job"]["state"] != "running";
    admin.until(BASE, ended).await;
    let dropped = job(&admin, "drop", &json!({ "all": true })).await;
    assert_eq!(dropped["result"]["changed"], 3, "{dropped}");

    let (status, told) = import(&admin, format!("{exported}\n{{\"id\":1}}\n")).await;
    assert_eq!(status, 422, "{told}");
    let error = told["error"].as_str().unwrap_or_default();
    assert!(error.starts_with("line 5: not a letter"), "{error}");
    assert_eq!(import(&admin, "\n".to_owned()).await.0, 422);
    vhost.wait_for_counts(DEAD, 0, 0, DEADLINE).await;

    // Longer than a request of another kind may be: the last line has two MiB of white space.
    let padded = format!("{exported}{}", " ".repeat(2 * 1024 * 1024 + 1));
    let (status, started) = import(&admin, padded).await;
    assert_eq!(
        (status, &started["kind"]),
        (202, &json!("import")),
        "{started}"
    );
    let path = format!("{BASE}/jobs/{}", started["id"].as_str().expect("an id"));
    let ended = |answer: &(u16, Value)| answer.1["state"] != "running";
    let (_, ended) = admin.until(&path, ended).await;
    assert_eq!(
        (&ended["state"], &ended["result"]["changed"]),
        (&json!("done"), &json!(3)),
        "{ended}"
    );
    look(&admin).await;
    let page = admin.read(&format!("{BASE}/letters")).await;
    let letters = page["letters"].as_array().expect("a list");
    let mut found: Vec<_> = letters.iter().filter_map(|it| it["id"].as_str()).collect();
    found.sort_unstable();
    assert_eq!(found, ids);
    assert_eq!(letters[0]["error"], "the warehouse is closed");
    worker.drain().await;
}

#[tokio::test]
async fn a_dry_run_says_what_would_happen_and_changes_nothing() {
    let vhost = vhost().await;
    let (worker, admin, _) = start(&vhost).await;
    let ids = fail(&vhost, 4).await;
    let two = json!({ "ids": [ids[0], ids[3]] });
    let replay = json!({ "select": two, "dry_run": true });
    let planned = job(&admin, "replay", &replay).await;
    assert_eq!(
        (&planned["kind"], &planned["state"]),
        (&json!("dry-run"), &json!("done")),
        "{planned}"
    );
    assert_eq!(planned["result"]["targets"], json!({ "q": 2 }), "{planned}");
    assert_eq!(planned["result"]["changed"], 0);
    let elsewhere = json!({ "all": true, "to": "other", "dry_run": true });
    let planned = job(&admin, "replay", &elsewhere).await;
    assert_eq!(
        planned["result"]["targets"],
        json!({ "other": 4 }),
        "{planned}"
    );
    let drop = json!({ "select": two, "dry_run": true });
    let counted = job(&admin, "drop", &drop).await;
    assert_eq!(
        (
            &counted["result"]["selected"],
            &counted["result"]["changed"]
        ),
        (&json!(2), &json!(0)),
        "{counted}"
    );
    let (status, told) = post(&admin, "drop", &json!({ "dry_run": true })).await;
    assert_eq!(status, 422, "nothing is selected: {told}");
    vhost.wait_for_counts(DEAD, 4, 0, DEADLINE).await;
    worker.drain().await;
}
