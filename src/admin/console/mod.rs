//! The operator's console: a page, embedded in the binary as it is.

/// A file of the console.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asset {
    /// Its path below `/console/`.
    pub(super) path: &'static str,
    /// Its `Content-Type`.
    pub(super) content_type: &'static str,
    /// Its bytes.
    pub(super) body: &'static [u8],
}

/// The page itself, which is served at `/`.
pub(super) const PAGE: Asset = Asset {
    path: "index.html",
    content_type: "text/html; charset=utf-8",
    body: include_bytes!("index.html"),
};

const ASSETS: &[Asset] = &[Asset {
    path: "style.css",
    content_type: "text/css; charset=utf-8",
    body: include_bytes!("style.css"),
}];

/// The file at `/console/{path}`.
pub(super) fn asset(path: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.path == path)
}
