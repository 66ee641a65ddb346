//! Opens the byte stream of a connection: URLs, names, TCP and TLS, each step under a deadline.

use std::{path::Path, sync::Arc, time::Duration};

use async_compat::CompatExt;
use lapin::{
    tcp::{AsyncTcpStream, OwnedIdentity, OwnedTLSConfig, RustlsConnector, RustlsConnectorConfig},
    uri::{AMQPScheme, AMQPUri},
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use socket2::{SockRef, Socket};
use tokio::{net::TcpStream, time::timeout};

use super::{BrokerSettings, BrokerUrls, TimeoutSettings, TlsSettings, error::BrokerError, wire};

/// A broker URL. The host is read by the `url` crate, because lapin's parser takes an IPv6 literal
/// for `localhost`.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) amqp: AMQPUri,
    pub(super) host: String,
    pub(super) port: u16,
}

impl Target {
    pub(super) fn is_tls(&self) -> bool {
        self.amqp.scheme == AMQPScheme::AMQPS
    }
}

/// Shuts the socket of a connection that is being opened, unless `keep` is called. Otherwise a peer
/// that accepts and then says nothing would keep lapin's thread busy without end.
pub(super) struct HangUp(Option<Socket>);

impl HangUp {
    /// Returns the socket, with which the caller can end the connection later.
    pub(super) fn keep(mut self) -> Socket {
        self.0
            .take()
            .expect("nothing else takes it before the drop")
    }
}

impl Drop for HangUp {
    fn drop(&mut self) {
        if let Some(socket) = self.0.take() {
            // An error means that the socket is closed already.
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
    }
}

/// Opens the byte stream of one connection.
pub(super) struct Dial {
    pub(super) uri: Target,
    pub(super) tls: Tls,
    pub(super) timeouts: Arc<TimeoutSettings>,
    pub(super) gate: Arc<wire::Gate>,
    pub(super) offers: Arc<wire::Offers>,
}

impl Dial {
    /// Opens the stream, and returns the guard that ends it.
    pub(super) async fn stream(&self) -> std::io::Result<(AsyncTcpStream<wire::Wire>, HangUp)> {
        let tcp = self.tcp().await?;
        tcp.set_nodelay(true)?;
        let keepalive = socket2::TcpKeepalive::new()
            .with_time(Duration::from_secs(30))
            .with_interval(Duration::from_secs(10));
        SockRef::from(&tcp).set_tcp_keepalive(&keepalive)?;
        let hang_up = HangUp(Some(SockRef::from(&tcp).try_clone()?));
        let mut stream = AsyncTcpStream::Plain(tcp.compat());
        if self.uri.is_tls() {
            let limit = self.timeouts.handshake;
            let handshake = async {
                match &self.tls {
                    Tls::System(config) => stream.into_tls(&self.uri.host, config.as_ref()).await,
                    Tls::Own(connector) => stream.into_rustls(connector, &self.uri.host).await,
                }
            };
            stream = timeout(limit, handshake)
                .await
                .map_err(|_| late("TLS handshake", limit))??;
        }
        let wire = wire::Wire::new(stream, Arc::clone(&self.gate), Arc::clone(&self.offers));
        Ok((AsyncTcpStream::Plain(wire), hang_up))
    }

    async fn tcp(&self) -> std::io::Result<TcpStream> {
        let limit = self.timeouts.connect;
        let at = (self.uri.host.as_str(), self.uri.port);
        let addresses = timeout(limit, tokio::net::lookup_host(at))
            .await
            .map_err(|_| late("resolving the broker's name", limit))??;
        let mut error = std::io::Error::other("the broker's name has no address");
        for address in addresses {
            match timeout(limit, TcpStream::connect(address)).await {
                Ok(Ok(tcp)) => return Ok(tcp),
                Ok(Err(refused)) => error = refused,
                Err(_) => error = late("connecting", limit),
            }
        }
        Err(error)
    }
}

fn late(step: &str, limit: Duration) -> std::io::Error {
    let text = format!("{step} took longer than {limit:?}");
    std::io::Error::new(std::io::ErrorKind::TimedOut, text)
}

/// Reads the broker's URLs. Each attempt reads them again, so a rotated secret is used.
pub(super) async fn urls(broker: &BrokerSettings) -> Result<Vec<String>, BrokerError> {
    let urls = match &broker.url_file {
        None => broker.url.expose().to_vec(),
        Some(file) => BrokerUrls::parse(&read(file).await?).expose().to_vec(),
    };
    if urls.is_empty() {
        return Err(BrokerError::Settings("no broker URL is set".to_owned()));
    }
    Ok(urls)
}

pub(super) async fn read(file: &Path) -> Result<String, BrokerError> {
    tokio::fs::read_to_string(file)
        .await
        .map_err(|error| BrokerError::Settings(format!("cannot read {}: {error}", file.display())))
}

/// Reads one URL. The connection's frames may have as many bytes as the broker last offered.
pub(super) async fn amqp_uri(
    url: &str,
    broker: &BrokerSettings,
    offers: &wire::Offers,
) -> Result<Target, BrokerError> {
    // The text of a parse error can quote the URL, and so the password.
    let unreadable = || BrokerError::Settings("the broker URL cannot be read".to_owned());
    let parsed = url::Url::parse(url).map_err(|_| unreadable())?;
    let mut amqp: AMQPUri = url.parse().map_err(|_| unreadable())?;
    if let Some(file) = &broker.password_file {
        let password = read(file).await?;
        amqp.authority.userinfo.password = password.trim_end_matches(['\r', '\n']).to_owned();
    }
    let heartbeat = u16::try_from(broker.heartbeat.as_secs()).unwrap_or(u16::MAX);
    amqp.query.heartbeat = Some(heartbeat);
    // The settings refuse `frame_max`, but a URL file may change later. With a smaller frame than
    // the broker's, one message with larger headers would end the connection at each delivery. A
    // size from the start saves memory: lapin then allocates its buffers of 32 frames once, and only
    // the pages that it uses take memory. Without a size lapin makes its buffers longer after the
    // handshake, and writes zeros to all of them.
    amqp.query.frame_max = u32::try_from(offers.frame_max()).ok();
    let host = parsed.host_str().unwrap_or("localhost");
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let port = amqp.authority.port;
    Ok(Target { amqp, host, port })
}

/// Whom to trust on a TLS connection, and the client certificate to show.
pub(super) enum Tls {
    /// The system's authorities, and those of `ca_file`.
    System(OwnedTLSConfig),
    /// Only the authorities of `ca_file`.
    Own(RustlsConnector),
}

pub(super) async fn tls_config(tls: &TlsSettings) -> Result<Tls, BrokerError> {
    let authorities = match &tls.ca_file {
        Some(file) => Some(read(file).await?),
        None => None,
    };
    let identity = match (&tls.cert_file, &tls.key_file) {
        (Some(cert), Some(key)) => Some((read(cert).await?, read(key).await?)),
        _ => None,
    };
    if !tls.system_authorities {
        let connector = own_authorities(&authorities.unwrap_or_default(), identity);
        return connector
            .map(Tls::Own)
            .map_err(|error| BrokerError::Settings(format!("broker.tls: {error}")));
    }
    Ok(Tls::System(OwnedTLSConfig {
        identity: identity.map(|(cert, key)| OwnedIdentity::PKCS8 {
            pem: cert.into_bytes(),
            key: key.into_bytes(),
        }),
        cert_chain: authorities,
    }))
}

fn own_authorities(
    authorities: &str,
    identity: Option<(String, String)>,
) -> Result<RustlsConnector, Box<dyn std::error::Error + Send + Sync>> {
    let certificates =
        |pem: &str| CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let authorities = certificates(authorities)?;
    let config = RustlsConnectorConfig::default().with_parsable_certificates(authorities);
    Ok(match identity {
        Some((cert, key)) => {
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
            config.connector_with_single_cert(certificates(&cert)?, key)?
        }
        None => config.connector_with_no_client_auth()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With a smaller frame than the broker's, one message with larger headers would end the
    /// connection at each delivery, and every consumer with it.
    #[tokio::test]
    async fn frames_are_as_large_as_the_broker_allows() {
        let broker = BrokerSettings::default();
        let url = "amqp://host/%2f?frame_max=8192&channel_max=9";
        let offers = wire::Offers::default();
        let target = amqp_uri(url, &broker, &offers).await.unwrap();
        assert_eq!(target.amqp.query.frame_max, Some(128 * 1024));
        assert_eq!(target.amqp.query.channel_max, Some(9));
    }
}
