//! An address of the server, which another process may have taken.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Listen, ServerError, connections::Listening};

/// The time between two tries of an address that is in use.
const AGAIN: Duration = Duration::from_secs(2);

/// An address at which the server listens, or will listen when the address is free.
#[derive(Debug)]
pub(super) struct Door {
    /// The setting that names the address.
    setting: &'static str,
    wanted: SocketAddr,
    /// `None`: the address is in use.
    listening: Option<Listening>,
}

impl Door {
    /// Listens at the address of this setting, if there is one and no other process has it.
    pub(super) fn open(setting: &'static str, listen: Listen) -> Result<Option<Self>, ServerError> {
        let Some(wanted) = listen.address() else {
            return Ok(None);
        };
        let listening = match bind(wanted) {
            Ok(listening) => Some(listening),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => None,
            Err(error) => {
                return Err(ServerError::Bind {
                    setting,
                    address: wanted,
                    error,
                });
            }
        };
        Ok(Some(Self {
            setting,
            wanted,
            listening,
        }))
    }

    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.listening.as_ref().map(|listening| listening.address)
    }

    /// Waits until the server listens, and logs it with this text. `None`: the server stops.
    pub(super) async fn listening(
        self,
        text: &'static str,
        stop: &CancellationToken,
    ) -> Option<Listening> {
        let listening = match self.listening {
            Some(listening) => listening,
            None => tokio::select! {
                listening = free(self.setting, self.wanted) => listening,
                () = stop.cancelled() => return None,
            },
        };
        let address = listening.address;
        info!(%address, url = format!("http://{address}/"), "{text}");
        Some(listening)
    }
}

/// Waits until the address is free, and listens there.
async fn free(setting: &str, address: SocketAddr) -> Listening {
    warn!(
        setting, %address, again_in = ?AGAIN,
        "the address is in use: the worker runs without it, and tries again until the address is free",
    );
    loop {
        sleep(AGAIN).await;
        if let Ok(listening) = bind(address) {
            return listening;
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<Listening> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    Ok(Listening { listener, address })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: SocketAddr) -> Listen {
        Listen::At(address)
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_in_use_is_tried_until_it_is_free() {
        let taken = bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = taken.address;
        let door = Door::open("admin.listen", at(address)).unwrap().unwrap();
        assert_eq!(door.address(), None);
        let stop = CancellationToken::new();
        let waiting = door.listening("listening", &stop);
        let mut waiting = std::pin::pin!(waiting);
        let early = tokio::time::timeout(AGAIN * 3, &mut waiting).await;
        assert!(early.is_err(), "{early:?}");
        drop(taken);
        assert_eq!(waiting.await.unwrap().address, address);
    }

    #[tokio::test]
    async fn an_address_in_use_does_not_hold_up_the_stop() {
        let taken = bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let door = Door::open("admin.probes", at(taken.address)).unwrap();
        let stop = CancellationToken::new();
        stop.cancel();
        let ended = door.unwrap().listening("listening", &stop).await;
        assert!(ended.is_none(), "{ended:?}");
    }

    #[test]
    fn an_address_of_another_machine_is_an_error_that_names_the_setting() {
        let elsewhere = SocketAddr::from(([192, 0, 2, 1], 8672));
        let error = Door::open("admin.listen", at(elsewhere)).unwrap_err();
        let text = error.to_string();
        let beginning = "admin.listen: cannot listen at 192.0.2.1:8672: ";
        assert!(text.starts_with(beginning), "{text}");
    }
}
