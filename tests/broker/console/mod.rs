//! The operator's console, in a real browser.

mod backlog;
mod browser;
mod changes;
mod dead;
mod dead_picture;
mod dead_ticks;
mod many;
mod many_letters;
mod page;
mod pages;
mod picture;

use self::browser::Browser;
use crate::support::{ADMIN, Admin, HttpHandler, TOKEN, VHost, WorkerProcess, consumer, vhost};

/// A worker with the consumer `q` and a browser on its console.
struct Console {
    vhost: VHost,
    server: HttpHandler,
    worker: WorkerProcess,
    url: String,
    browser: Browser,
}

impl Console {
    /// One with [`ADMIN`]. `changes` is TOML laid over the configuration.
    async fn open(server: HttpHandler, changes: &str) -> Self {
        Self::open_with(server, ADMIN, changes).await
    }

    /// One with this admin server.
    async fn open_with(server: HttpHandler, admin: &str, changes: &str) -> Self {
        let vhost = vhost().await;
        let consumer = consumer(&vhost, "q")
            .http(&server)
            .with(admin)
            .with(changes);
        let worker = WorkerProcess::start_with_admin(&consumer.toml());
        worker.wait_for_consumers(&vhost, "q", 1).await;
        let (url, browser) = tokio::join!(address(&worker), Browser::start());
        browser.open(&url).await;
        browser.wait_for_text("#verdict", "Healthy").await;
        Self {
            vhost,
            server,
            worker,
            url,
            browser,
        }
    }

    /// Gives the token, which the page asks for.
    async fn give_token(&self) {
        self.browser
            .wait_for_text("#token-dialog", "Changes need")
            .await;
        self.browser.press(TOKEN).await;
        self.browser.press(&browser::ENTER.to_string()).await;
    }
}

/// Where the worker's console is, once it listens.
async fn address(worker: &WorkerProcess) -> String {
    format!("http://{}/", Admin::of(worker).await.address())
}
