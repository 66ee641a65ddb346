//! `amqps://`.

use lapwing::Readiness;

use super::{QUEUE, handler, orders};
use crate::support::{DEADLINE, VHost, require, vhost};

/// The client certificates that the broker lists for this virtual host.
async fn peer_certificates(vhost: &VHost) -> Vec<String> {
    let path = format!(
        "vhosts/{}/connections",
        crate::support::management::encode(vhost.name())
    );
    let listed = vhost.broker().management().get(&path).await;
    let listed = listed.as_array().into_iter().flatten();
    let subject = |peer: &serde_json::Value| Some(peer["peer_cert_subject"].as_str()?.to_owned());
    listed.filter_map(subject).collect()
}

#[tokio::test]
async fn a_broker_is_trusted_by_its_own_authority_and_shown_the_client_certificate() {
    let vhost = vhost().await;
    let (url, files) = require!(Tls, vhost.tls());
    let trust = format!("[broker.tls]\nca_file = '{}'", files.ca.display());
    let identity = format!(
        "{trust}\ncert_file = '{}'\nkey_file = '{}'",
        files.client_certificate.display(),
        files.client_key.display()
    );
    for (changes, shown) in [(&trust, 0), (&identity, 2)] {
        let handler = handler().await;
        let worker = orders(&url, &handler).with(changes).start().await;
        vhost.publish(QUEUE, "{}").await;
        handler.wait_for_answered(1, DEADLINE).await;
        let certificates = async || {
            let found = peer_certificates(&vhost).await;
            found.iter().filter(|name| name.contains("client")).count()
        };
        let what = format!("the broker has seen {shown} client certificates");
        crate::support::wait_until(&what, DEADLINE, certificates, |n| *n == shown).await;
        worker.drain().await;
    }
}

#[tokio::test]
async fn a_broker_that_another_authority_signed_is_refused_and_the_reason_said() {
    let vhost = vhost().await;
    let (url, files) = require!(Tls, vhost.tls());
    // First the authority is a certificate that signed nothing, then only the system's are trusted.
    let other = format!(
        "[broker.tls]\nca_file = '{}'",
        files.client_certificate.display()
    );
    for changes in [other.as_str(), ""] {
        let handler = handler().await;
        let worker = orders(&url, &handler).with(changes).begin();
        let says = |readiness: &Readiness| {
            let reason = readiness.consumers[QUEUE].reason.as_deref();
            !readiness.ready
                && reason.is_some_and(|reason| reason.to_lowercase().contains("certificate"))
        };
        let readiness = worker.until("says that it trusts it not", says).await;
        println!("{:?}", readiness.consumers[QUEUE].reason);
        worker.drain().await;
    }
    assert_eq!(vhost.connections().await, []);
}
